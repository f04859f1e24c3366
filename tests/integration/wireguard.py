"""Peers of a WireGuard Listener: wireguard-go in a network namespace, and a client of our own that knows no more than
the protocol's messages (WireGuard whitepaper, section 5.4) and keeps to few of its manners."""

import hashlib
import hmac
import itertools
import os
import shutil
import struct
import subprocess
import time
from base64 import b64decode, b64encode
from pathlib import Path
from socket import IPPROTO_UDP, inet_aton

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from harness import Client, Netns, Process, until

CONSTRUCTION = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
INITIATION, RESPONSE, COOKIE, DATA = 1, 2, 3, 4
NO_PSK = bytes(32)
TAI64_EPOCH = (1 << 62) + 10


def key_pair() -> tuple[str, str]:
    """Private and public key in base64."""
    private = X25519PrivateKey.generate()
    return _text(private.private_bytes_raw()), _text(private.public_key().public_bytes_raw())


def new_secret() -> str:
    return _text(os.urandom(32))


def udp_in_ip(source: tuple[str, int], destination: tuple[str, int], data: bytes) -> bytes:
    """An IPv4 packet with a UDP datagram, which has no checksum (RFC 768 allows that)."""
    udp = struct.pack("!4H", source[1], destination[1], 8 + len(data), 0) + data
    addresses = inet_aton(source[0]) + inet_aton(destination[0])
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, IPPROTO_UDP, 0) + addresses
    total = sum(struct.unpack("!10H", head))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return head[:10] + checksum.to_bytes(2, "big") + head[12:] + udp


class Tunnel:
    """A userspace client on a UDP socket: no padding, never a handshake of its own accord.

    `gateway` is the address of the Listener and `gateway_key` its public key.
    """

    def __init__(
        self,
        socket: Client,
        gateway: tuple[str, int],
        gateway_key: str,
        private_key: str | None = None,
        psk: str | None = None,
    ) -> None:
        self.socket = socket
        self.gateway = gateway
        self._gateway_key = b64decode(gateway_key)
        self._private = X25519PrivateKey.from_private_bytes(b64decode(private_key or key_pair()[0]))
        self._psk = b64decode(psk) if psk else NO_PSK
        self.index = int.from_bytes(os.urandom(4), "little")
        self._counter = itertools.count()
        self._remote_index = 0
        self._send = self._receive = b""

    @property
    def public_key(self) -> str:
        return _text(self._private.public_key().public_bytes_raw())

    # The handshake

    def initiation(self, *, spoil_mac: bool = False, seconds: int | None = None) -> bytes:
        """The first message; only the last one made can be answered."""
        ephemeral = X25519PrivateKey.generate()
        peer = X25519PublicKey.from_public_bytes(self._gateway_key)
        chain = _hash(CONSTRUCTION)
        digest = _hash(_hash(chain, IDENTIFIER), self._gateway_key)
        public = ephemeral.public_key().public_bytes_raw()
        (chain,) = _kdf(chain, public, 1)
        digest = _hash(digest, public)
        chain, key = _kdf(chain, ephemeral.exchange(peer), 2)
        static = _seal(key, 0, self._private.public_key().public_bytes_raw(), digest)
        digest = _hash(digest, static)
        chain, key = _kdf(chain, self._private.exchange(peer), 2)
        now, nanoseconds = (seconds, 0) if seconds else divmod(time.time_ns(), 1_000_000_000)
        stamp = (TAI64_EPOCH + now).to_bytes(8, "big") + nanoseconds.to_bytes(4, "big")
        sealed_stamp = _seal(key, 0, stamp, digest)
        self._begun = ephemeral, chain, _hash(digest, sealed_stamp)
        message = _head(INITIATION, self.index) + public + static + sealed_stamp
        mac1 = _mac(_hash(b"mac1----", self._gateway_key), message)
        if spoil_mac:
            mac1 = bytes([mac1[0] ^ 1]) + mac1[1:]
        return message + mac1 + bytes(16)

    def finish(self, response: bytes) -> None:
        """The gateway's answer; a session is there from here on."""
        ephemeral, chain, digest = self._begun
        assert response[0] == RESPONSE
        assert int.from_bytes(response[8:12], "little") == self.index
        public = response[12:44]
        remote = X25519PublicKey.from_public_bytes(public)
        (chain,) = _kdf(chain, public, 1)
        digest = _hash(digest, public)
        (chain,) = _kdf(chain, ephemeral.exchange(remote), 1)
        (chain,) = _kdf(chain, self._private.exchange(remote), 1)
        chain, mixed, key = _kdf(chain, self._psk, 3)
        _open(key, 0, response[44:60], _hash(digest, mixed))
        self._send, self._receive = _kdf(chain, b"", 2)
        self._remote_index = int.from_bytes(response[4:8], "little")
        self._counter = itertools.count()

    def stamp_of(self, initiation: bytes) -> int:
        """The stamp of a handshake that the gateway begins, in Unix nanoseconds."""
        assert initiation[0] == INITIATION
        public, static, stamp = initiation[8:40], initiation[40:88], initiation[88:116]
        chain = _hash(CONSTRUCTION)
        digest = _hash(_hash(chain, IDENTIFIER), self._private.public_key().public_bytes_raw())
        (chain,) = _kdf(chain, public, 1)
        digest = _hash(digest, public)
        chain, key = _kdf(chain, self._private.exchange(X25519PublicKey.from_public_bytes(public)), 2)
        gateway = X25519PublicKey.from_public_bytes(_open(key, 0, static, digest))
        assert gateway.public_bytes_raw() == self._gateway_key
        chain, key = _kdf(chain, self._private.exchange(gateway), 2)
        opened = _open(key, 0, stamp, _hash(digest, static))
        seconds, nanoseconds = (
            int.from_bytes(opened[:8], "big") - TAI64_EPOCH,
            int.from_bytes(opened[8:], "big"),
        )
        return seconds * 1_000_000_000 + nanoseconds

    def connect(self) -> "Tunnel":
        self.socket.send(self.initiation(), self.gateway)
        self.finish(self.socket.receive()[0])
        return self

    # Data

    def sealed(self, plaintext: bytes) -> bytes:
        """A data message, not padded."""
        counter = next(self._counter)
        head = _head(DATA, self._remote_index) + counter.to_bytes(8, "little")
        return head + _seal(self._send, counter, plaintext, b"")

    def send(self, plaintext: bytes) -> None:
        self.socket.send(self.sealed(plaintext), self.gateway)

    def opened(self, message: bytes) -> bytes:
        """The plaintext of a data message."""
        assert message[0] == DATA
        assert int.from_bytes(message[4:8], "little") == self.index
        return _open(self._receive, int.from_bytes(message[8:16], "little"), message[16:], b"")

    def receive(self) -> bytes:
        """The next plaintext that is no keepalive."""
        while not (plaintext := self.opened(self.socket.receive()[0])):
            pass
        return plaintext

    def is_genuine(self, message: bytes) -> bool:
        """True for a data message of this session."""
        try:
            self.opened(message)
        except InvalidTag:
            return False
        return True


class StockPeer:
    """wireguard-go with an interface in `place`, as the client of one gateway."""

    _numbers = itertools.count()

    @staticmethod
    def missing() -> str | None:
        """Why there can be none, if there can be none."""
        absent = [tool for tool in ("wireguard-go", "wg", "wg-quick", "ping") if shutil.which(tool) is None]
        if absent:
            return f"needs {', '.join(absent)} (wireguard-go, wireguard-tools, iputils-ping)"
        return None if Path("/dev/net/tun").exists() else "needs /dev/net/tun"

    def __init__(self, place: Netns, directory: Path, addresses: list[str]) -> None:
        self.place = place
        self.private_key, self.public_key = key_pair()
        # The path of its control socket is shared by all namespaces.
        self.interface = f"wg{os.getpid()}n{next(self._numbers)}"
        self._file = directory / f"{self.interface}.conf"
        self._process = Process(["wireguard-go", "-f", self.interface], directory, place)
        control = Path("/var/run/wireguard", f"{self.interface}.sock")
        until(control.exists, "wireguard-go runs")
        for address in addresses:
            place.ip("address", "add", address, "dev", self.interface, *(["nodad"] if ":" in address else []))
        place.ip("link", "set", self.interface, "mtu", "1420", "up")

    def connect(self, endpoint: tuple[str, int], gateway_key: str, routes: list[str], *settings: str) -> None:
        """The gateway is its only peer; a handshake begins when something is sent."""
        lines = [
            "[Interface]",
            f"PrivateKey = {self.private_key}",
            "[Peer]",
            f"PublicKey = {gateway_key}",
            f"Endpoint = {endpoint[0]}:{endpoint[1]}",
            f"AllowedIPs = {', '.join(routes)}",
            *settings,
        ]
        self._file.write_text("\n".join(lines) + "\n")
        self._wg("setconf", self.interface, str(self._file))
        for route in routes:
            self.place.ip("route", "replace", route, "dev", self.interface)

    def move(self, port: int) -> None:
        """Give the peer another outer port."""
        self._wg("set", self.interface, "listen-port", str(port))

    @property
    def listen_port(self) -> int:
        return int(self._wg("show", self.interface, "listen-port"))

    def ping(self, address: str) -> None:
        command = ["ping", "-c", "3", "-i", "0.2", "-W", "10", address]
        done = self.place.run(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
        assert " 0% packet loss" in done.stdout, done.stdout + done.stderr

    def close(self) -> None:
        self._process.close()

    def _wg(self, *arguments: str) -> str:
        return subprocess.run(["wg", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def _head(kind: int, index: int) -> bytes:
    return kind.to_bytes(4, "little") + index.to_bytes(4, "little")


def _text(raw: bytes) -> str:
    return b64encode(raw).decode()


def _hash(*parts: bytes) -> bytes:
    return hashlib.blake2s(b"".join(parts)).digest()


def _mac(key: bytes, message: bytes) -> bytes:
    return hashlib.blake2s(message, digest_size=16, key=key).digest()


def _kdf(key: bytes, data: bytes, count: int) -> list[bytes]:
    secret = hmac.digest(key, data, "blake2s")
    keys = [b""]
    for number in range(1, count + 1):
        keys.append(hmac.digest(secret, keys[-1] + bytes([number]), "blake2s"))
    return keys[1:]


def _seal(key: bytes, counter: int, plaintext: bytes, aad: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(bytes(4) + counter.to_bytes(8, "little"), plaintext, aad)


def _open(key: bytes, counter: int, sealed: bytes, aad: bytes) -> bytes:
    return ChaCha20Poly1305(key).decrypt(bytes(4) + counter.to_bytes(8, "little"), sealed, aad)
