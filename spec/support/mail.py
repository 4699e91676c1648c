"""What a mail says, read by Python's email: the field by field view that specs compare. `mail.py FILE…` prints JSON."""
import email
import email.header
import email.policy
import email.utils
import json
import sys


def mailboxes(value):
    """Names and addresses. Python's own puts blanks between the encoded words of a name (RFC 2047, section 6.2)."""
    return [{"name": str(email.header.make_header(email.header.decode_header(name))), "address": address}
            for name, address in email.utils.getaddresses([value])]


def fields(raw):
    plain = email.message_from_bytes(raw)
    mail = email.message_from_bytes(raw, policy=email.policy.default)
    parts = {p.get_content_type(): p.get_content() for p in mail.walk() if not p.is_multipart()}
    return {
        "headers": {name.lower(): str(value) for name, value in mail.items()},
        "names": [name for name, _ in mail.items()],
        "to": mailboxes(plain["to"]),
        "from": mailboxes(plain["from"]),
        "type": mail.get_content_type(),
        "charsets": sorted({p.get_content_charset() or "" for p in mail.walk() if not p.is_multipart()}),
        "text": parts.get("text/plain"),
        "html": parts.get("text/html"),
        "defects": [str(d) for p in mail.walk() for d in p.defects],
        "longest": max(len(line) for line in raw.replace(b"\r\n", b"\n").split(b"\n")),
    }


if __name__ == "__main__":
    print(json.dumps([dict(fields(open(path, "rb").read()), path=path) for path in sys.argv[1:]]))
