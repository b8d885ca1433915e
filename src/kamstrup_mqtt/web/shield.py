"""What stands before the page: size and name of requests, who may ask, and careful headers."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kamstrup_mqtt.web.access import Guard, Verdict
from kamstrup_mqtt.web.hosts import Hosts
from kamstrup_mqtt.web.peers import Address, Networks, client_of, is_local, parse_address
from kamstrup_mqtt.web.settings import WebSettings

_MOST_BYTES = 16384  # of a request
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Shield:
    """Keeps out who may not see the page, and adds the headers that keep browsers careful.

    Args:
        app: what is shielded.
        settings: who may see it. Where there is a password, it is asked for, but not of `allow`.
            Where there is none, only `allow` and this machine may, as far as the page listens for
            others, and only under names that are known: a browser on this machine asks what any
            web site makes it ask (DNS rebinding), and so may one in `allow`.

    """

    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self._app = app
        self._guard = Guard(settings.password)
        self._proxies = Networks(settings.trusted_proxies)
        self._allow = Networks(settings.allow)
        host, _ = settings.address
        self._hosts = Hosts([*settings.hosts, host])
        self._local = is_local(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or let it pass, and add the headers to what comes back."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)

        async def careful(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    added[name] = value
                if not scope["path"].startswith("/static/"):
                    added["Cache-Control"] = "no-store"
            await send(message)

        refused = await self._refusal(scope, headers)
        await (refused or self._app)(scope, receive, careful)

    async def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size + len(scope["raw_path"]) + len(scope["query_string"]) > _MOST_BYTES:
            return PlainTextResponse("the request is too large", 431)
        client = scope.get("client")
        peer = parse_address(client[0]) if client else None
        if self._guard.needed:
            return None if peer in self._allow else await self._login(headers, peer)
        if not (self._local or peer in self._allow):
            return PlainTextResponse(
                f"{peer} may not see this page: add it to web.allow, or set web.password", 403
            )
        asked = headers.getlist("host")
        if not self._hosts.knows(asked):
            return PlainTextResponse(
                f"this page does not answer to the name '{' '.join(asked)[:60]}': "
                "add it to web.hosts, or set web.password",
                421,
            )
        return None

    async def _login(self, headers: Headers, peer: Address | None) -> Response | None:
        client = client_of(peer, headers.getlist("x-forwarded-for"), self._proxies)
        match await self._guard.check(headers.get("authorization"), client):
            case Verdict.ADMITTED:
                return None
            case Verdict.LOCKED:
                return PlainTextResponse(
                    "too many wrong passwords: wait a minute", 429, {"Retry-After": "60"}
                )
            case Verdict.BUSY:
                return PlainTextResponse(
                    "too many passwords are being checked: try again", 503, {"Retry-After": "5"}
                )
        return PlainTextResponse(
            "a password is needed", 401, {"WWW-Authenticate": 'Basic realm="kamstrup-mqtt"'}
        )
