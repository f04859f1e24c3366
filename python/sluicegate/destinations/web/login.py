"""Arguments of a NATS Destination: how it logs in, and which of several ways it takes."""

from __future__ import annotations

from typing import Any

from sluicegate.destinations.base import Arguments, DestinationContext
from sluicegate.destinations.web.remote import read_secret


def read_choice(reader: Arguments, name: str, *choices: str) -> str:
    """The argument as one of these; the first without one."""
    text = reader.text(name, choices[0])
    if text not in choices:
        raise reader.wrong(name, f"{name} is {text!r}", f"use {' or '.join(choices)}")
    return text


def read_login(reader: Arguments, context: DestinationContext, *, private: bool) -> dict[str, Any]:
    """Options of nats-py's `connect`: what `CredentialsFile` or `PasswordFile` says. Raises `DestinationError`."""
    if text := read_secret(reader, "CredentialsFile", context):
        if "BEGIN NATS USER JWT" not in text or "BEGIN USER NKEY SEED" not in text:
            cause = "the file of CredentialsFile has no JWT with its seed"
            raise reader.wrong(
                "CredentialsFile", cause, "name a .creds file, as `nsc generate creds` writes it"
            )
        return {"user_credentials": text}
    user, colon, password = read_secret(reader, "PasswordFile", context, leaves=True).partition(":")
    if user and not private:
        raise reader.wrong("PasswordFile", "it would go out in the clear", "add Tls: required, or CaFile")
    return ({"user": user, "password": password} if colon else {"token": user}) if user else {}
