//! Hexadecimal without separators: upper case out, either case in.

use hex_simd::AsciiCase;

pub fn write(payload: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    hex_simd::encode_append(payload, out, AsciiCase::Upper);
    out.push(b'"');
}

pub fn read(data: &str) -> Result<Vec<u8>, String> {
    hex_simd::decode_to_vec(data).map_err(|_| "Data is not an even number of hexadecimal digits".to_owned())
}
