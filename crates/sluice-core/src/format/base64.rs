//! Standard Base64 (RFC 4648 section 4): padded, one spelling per payload.

pub fn write(payload: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    base64_simd::STANDARD.encode_append(payload, out);
    out.push(b'"');
}

pub fn read(data: &str) -> Result<Vec<u8>, String> {
    base64_simd::STANDARD
        .decode_to_vec(data)
        .map_err(|_| "Data is not standard Base64 with padding (RFC 4648 section 4)".to_owned())
}
