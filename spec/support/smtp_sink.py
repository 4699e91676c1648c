"""A mail server that takes everything and misbehaves as it is told: smtp_sink.py DIRECTORY OPTIONS(JSON).

It listens on a free port of 127.0.0.1 and writes it into DIRECTORY/port. Each mail becomes DIRECTORY/mails/NNNNNN.json:
envelope, login, TLS, and the fields of mail.py. What it does wrong stands in DIRECTORY/plan.json, which may change at
any time: a list of {stage, action, recipient?, times?, chance?}; the first that fits is taken.

stages: connect, ehlo, auth, mail, rcpt, data (the command), body (behind its end)
actions: a reply ("451 4.3.0 later"), "hang", "drop", "keep-drop" (body: the mail is kept and the reply lost), "wait" (makes
DIRECTORY/waits, and goes on when there is no file DIRECTORY/wait any more)
options: cert, key (TLS is offered), implicit (TLS from the first byte), user, password, token (login is required; with a
token by the mechanisms in `mechanisms`: XOAUTH2 when absent, OAUTHBEARER),
slow (seconds between two bytes of a reply), keep ("ids": only Message-ID, recipients and whether the reply was lost; false:
mails are counted only)
"""
import asyncio
import json
import os
import random
import re
import ssl
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from aiosmtpd.smtp import SMTP, AuthResult, Session  # noqa: E402
from mail import fields  # noqa: E402

directory, options = sys.argv[1], json.loads(sys.argv[2])
count = 0


class Plan:
    """plan.json, with how often each of its rules was used."""

    def __init__(self):
        self.stamp, self.rules = None, []

    def action(self, stage, recipients=()):
        path = os.path.join(directory, "plan.json")
        stamp = os.stat(path).st_mtime_ns if os.path.exists(path) else None
        if stamp != self.stamp:
            self.stamp, self.rules = stamp, json.load(open(path))
        for rule in self.rules:
            if rule["stage"] != stage or rule.get("times") == 0:
                continue
            if "recipient" in rule and not any(re.search(rule["recipient"], r) for r in recipients):
                continue
            if random.random() >= rule.get("chance", 1):
                continue
            if "times" in rule:
                rule["times"] -= 1
            return rule["action"]
        return None


plan = Plan()


class Server(SMTP):
    async def misbehave(self, stage, recipients=()):
        """Whether the command is done with."""
        action = plan.action(stage, recipients)
        if action is None or action == "keep-drop":
            return action
        if action == "wait":
            open(os.path.join(directory, "waits"), "w").close()
            while os.path.exists(os.path.join(directory, "wait")):
                await asyncio.sleep(0.02)
            return None
        if action == "hang":
            await asyncio.sleep(3600)
        if action == "drop":
            self.transport.abort()
            raise ConnectionResetError("as planned")
        await self.push(action)
        if action.startswith("421"):
            self.transport.close()
        return action

    async def push(self, status):
        if not options.get("slow"):
            return await super().push(status)
        for byte in (status if isinstance(status, bytes) else status.encode()) + b"\r\n":
            self._writer.write(bytes([byte]))
            await self._writer.drain()
            await asyncio.sleep(options["slow"])

    async def _handle_client(self):
        if not await self.misbehave("connect"):
            await super()._handle_client()

    async def smtp_EHLO(self, hostname):
        if not await self.misbehave("ehlo"):
            await super().smtp_EHLO(hostname)

    async def smtp_AUTH(self, arg):
        if not await self.misbehave("auth"):
            await super().smtp_AUTH(arg)

    async def smtp_MAIL(self, arg):
        if not await self.misbehave("mail"):
            await super().smtp_MAIL(arg)

    async def smtp_RCPT(self, arg):
        if not await self.misbehave("rcpt", [arg or ""]):
            await super().smtp_RCPT(arg)

    async def smtp_DATA(self, arg):
        if not await self.misbehave("data", self.envelope.rcpt_tos):
            await super().smtp_DATA(arg)


class Handler:
    async def handle_DATA(self, server, session: Session, envelope):
        global count
        action = plan.action("body", envelope.rcpt_tos)
        if action == "hang":
            await asyncio.sleep(3600)
        if action == "drop":
            server.transport.abort()
            raise ConnectionResetError("as planned")
        if action and action != "keep-drop":
            return action
        count += 1
        keep = options.get("keep", True)
        if keep:
            found = re.search(rb"(?im)^message-id: *(\S+)", envelope.content) if keep == "ids" else None
            mail = {"id": found.group(1).decode()} if found else fields(envelope.content)
            mail["lost"] = action == "keep-drop"
            mail.update(sender=envelope.mail_from, recipients=envelope.rcpt_tos, tls=session.ssl is not None,
                        login=getattr(session, "login_name", None), mechanism=getattr(session, "mechanism", None),
                        connection=id(session))
            path = os.path.join(directory, "mails", "%06d.json" % count)
            with open(path + ".new", "w") as file:
                json.dump(mail, file)
            os.rename(path + ".new", path)
        if action == "keep-drop":
            server.transport.abort()
            raise ConnectionResetError("as planned")
        return "250 2.0.0 kept as %d" % count

    async def bearer(self, server, args, mechanism, form):
        import base64
        blob = await server.challenge_auth("") if len(args) < 2 else base64.b64decode(args[1])
        blob = blob.decode() if isinstance(blob, bytes) else ""
        good = re.fullmatch(form.format(user=re.escape(options["user"]), token=re.escape(options.get("token"))), blob)
        server.session.mechanism = mechanism
        server.session.login_name = options["user"]
        return AuthResult(success=good is not None, handled=False)

    async def auth_XOAUTH2(self, server, args):
        return await self.bearer(server, args, "XOAUTH2", "user={user}\x01auth=Bearer {token}\x01\x01")

    async def auth_OAUTHBEARER(self, server, args):  # RFC 7628, section 3.1
        return await self.bearer(server, args, "OAUTHBEARER",
                                 "n,a={user},\x01host=[^\x01]+\x01port=\\d+\x01auth=Bearer {token}\x01\x01")


def authenticate(server, session, envelope, mechanism, data):
    session.mechanism, session.login_name = mechanism, data.login.decode()
    good = data.login.decode() == options["user"] and data.password.decode() == options.get("password")
    return AuthResult(success=good, handled=False)


async def main():
    os.makedirs(os.path.join(directory, "mails"), exist_ok=True)
    context = None
    if options.get("cert"):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options["cert"], options["key"])
    login = options.get("user") is not None
    offered = options.get("mechanisms", ["XOAUTH2"]) if options.get("token") else ["LOGIN", "PLAIN"]
    exclude = [name for name in ("LOGIN", "PLAIN", "XOAUTH2", "OAUTHBEARER") if name not in offered]
    loop = asyncio.get_running_loop()

    def make():
        return Server(Handler(), hostname="sink", loop=loop, enable_SMTPUTF8=True,
                      tls_context=None if options.get("implicit") else context, timeout=3600,
                      auth_required=login, auth_require_tls=False, authenticator=authenticate,
                      auth_exclude_mechanism=exclude)

    server = await loop.create_server(make, "127.0.0.1", 0, ssl=context if options.get("implicit") else None)
    path = os.path.join(directory, "port")
    with open(path + ".new", "w") as file:
        file.write(str(server.sockets[0].getsockname()[1]))
    os.rename(path + ".new", path)
    await server.serve_forever()


asyncio.run(main())
