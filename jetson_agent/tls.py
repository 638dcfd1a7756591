"""The doctor's look at TLS: the files that Ray would use, read as Ray would read them."""

from __future__ import annotations

import datetime
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from jetson_agent.finding import Finding

if TYPE_CHECKING:
    from cryptography import x509

SWITCH = "RAY_USE_TLS"
CERTIFICATE, KEY, AUTHORITY = "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"


def wanted(variables: Mapping[str, str] = os.environ) -> bool:
    """Whether Ray would use TLS."""
    return variables.get(SWITCH, "").strip().lower() in ("1", "true")


def tls(variables: Mapping[str, str] = os.environ) -> list[Finding]:
    """What is wrong with this machine's certificate, key and authority; empty where TLS is off."""
    if not wanted(variables):
        return []
    paths = {name: Path(variables.get(name, "")) for name in (CERTIFICATE, KEY, AUTHORITY)}
    missing = [_missing(name, path, name in variables) for name, path in paths.items() if not _readable(path)]
    if missing:
        return missing
    from cryptography import x509

    loaded = []
    for name in (CERTIFICATE, AUTHORITY):
        try:
            loaded.append(x509.load_pem_x509_certificate(paths[name].read_bytes()))
        except ValueError as error:
            remedy = f"Let {name} name a certificate in PEM form (it begins with BEGIN CERTIFICATE)."
            return [Finding(False, f"TLS: {paths[name]} is no certificate ({error})", remedy)]
    own, authority = loaded
    return [
        _valid(paths[CERTIFICATE], own),
        _valid(paths[AUTHORITY], authority),
        _signed(paths, own, authority),
        _named(paths[CERTIFICATE], own),
        _key(paths),
    ]


def _readable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.R_OK)


def _missing(name: str, path: Path, said: bool) -> Finding:
    what = f"TLS: {name}={path} is missing or cannot be read" if said else f"TLS: {name} is not set"
    return Finding(False, what, f"{SWITCH} is on: {name} must name a PEM file that this user can read.")


def _valid(path: Path, certificate: x509.Certificate) -> Finding:
    now = datetime.datetime.now(datetime.timezone.utc)
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return Finding(
        first <= now <= last,
        f"TLS: {path} is valid from {first:%Y-%m-%d} to {last:%Y-%m-%d}",
        f"Today is {now:%Y-%m-%d}: let the authority sign a new one, or set the clock (`timedatectl set-ntp true`).",
    )


def _signed(paths: Mapping[str, Path], own: x509.Certificate, authority: x509.Certificate) -> Finding:
    from cryptography.exceptions import InvalidSignature

    try:
        own.verify_directly_issued_by(authority)
        good = True
    except (ValueError, TypeError, InvalidSignature):
        good = False
    return Finding(
        good,
        f"TLS: {paths[CERTIFICATE]} is {'' if good else 'not '}signed by {paths[AUTHORITY]}",
        "Head and devices need certificates of one authority: copy its certificate from the head, have this one signed.",
    )


def _named(path: Path, own: x509.Certificate) -> Finding:
    from cryptography import x509

    try:
        names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        said = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    except x509.ExtensionNotFound:
        said = set()
    here = {item.address for items in psutil.net_if_addrs().values() for item in items}
    return Finding(
        bool(said & here),
        f"TLS: {path} is for {', '.join(sorted(said)) or 'no address'}",
        "Others reach this node by its IP address: the certificate needs it as a subject alternative name.",
    )


def _key(paths: Mapping[str, Path]) -> Finding:
    path = paths[KEY]
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(paths[CERTIFICATE], path, password="")
    except (ssl.SSLError, ValueError) as error:
        return Finding(False, f"TLS: {path} is no key of {paths[CERTIFICATE]} ({error})", f"Mend {KEY}.")
    return Finding(not path.stat().st_mode & 0o077, f"TLS: {path}", "Others can read this key: chmod it 600.")
