"""A name server for tests: it says what it is told to, over UDP and TCP, and notes what it was asked."""

import socket
import struct
import threading
from typing import Literal

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
from harness import HOST, Place

UDP_SIZE = 512  # RFC 1035, section 4.2.1

Mood = Literal["answers", "fails", "silent"]


class NameServer:
    """Serves `records` in `place`, at port 53 of `host`. Names that have none do not exist."""

    def __init__(self, host: str, place: Place = HOST) -> None:
        self.mood: Mood = "answers"
        self.asked: list[tuple[str, str, str]] = []
        """`(transport, name, type)`"""
        self._records: dict[tuple[str, str], list[dns.rrset.RRset]] = {}
        self._udp = place.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._tcp = place.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        self._udp.bind((host, 53))
        self._tcp.bind((host, 53))
        self._tcp.listen()
        self._threads = [threading.Thread(target=work) for work in (self._serve_udp, self._serve_tcp)]
        for thread in self._threads:
            thread.start()

    def set(self, name: str, *records: tuple[str, str], ttl: int = 300) -> None:
        """What there is of `name`: `(type, value)` each; none: there is no such name."""
        kinds: dict[str, list[str]] = {}
        for kind, value in records:
            kinds.setdefault(kind, []).append(value)
        made = {
            (name, kind): [dns.rrset.from_text(f"{name}.", ttl, "IN", kind, *values)]
            for kind, values in kinds.items()
        }
        kept = {key: value for key, value in self._records.items() if key[0] != name}
        self._records = {**kept, **made}

    def count(self, name: str, transport: str = "udp") -> int:
        return sum(one[:2] == (transport, name) for one in self.asked)

    def close(self) -> None:
        self._udp.sendto(b"", self._udp.getsockname())
        self._tcp.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._udp.close()
        self._tcp.close()

    def _serve_udp(self) -> None:
        while True:
            query, address = self._udp.recvfrom(65_535)
            if not query:
                return
            answer = self._answer(query, "udp")
            if answer is not None:
                self._udp.sendto(answer, address)

    def _serve_tcp(self) -> None:
        while True:
            try:
                connection, _ = self._tcp.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                (length,) = struct.unpack("!H", stream.read(2))
                answer = self._answer(stream.read(length), "tcp")
                if answer is not None:
                    connection.sendall(struct.pack("!H", len(answer)) + answer)

    def _answer(self, query: bytes, transport: str) -> bytes | None:
        message = dns.message.from_wire(query)
        (question,) = message.question
        name, kind = question.name.to_text().removesuffix("."), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((transport, name, kind))
        if self.mood == "silent":
            return None
        response = dns.message.make_response(message)
        if self.mood == "fails":
            response.set_rcode(dns.rcode.SERVFAIL)
            return response.to_wire()
        self._fill(response, name, kind)
        wire = response.to_wire()
        if transport == "udp" and len(wire) > UDP_SIZE:
            response.answer.clear()
            response.flags |= dns.flags.TC
            wire = response.to_wire()
        return wire

    def _fill(self, response: dns.message.Message, name: str, kind: str) -> None:
        records = self._records
        while (name, "CNAME") in records:
            response.answer += records[name, "CNAME"]
            name = records[name, "CNAME"][0][0].target.to_text().removesuffix(".")
        if (name, kind) in records:
            response.answer += records[name, kind]
            return
        if not any(known == name for known, _ in records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        soa = "ns.example. admin.example. 1 3600 600 86400 0"  # the last number is the negative TTL
        response.authority.append(dns.rrset.from_text("example.", 0, "IN", "SOA", soa))
