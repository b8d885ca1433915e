"""What stands before the page: the size of requests, the password, and careful headers."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kamstrup_mqtt.web.access import Guard, Verdict
from kamstrup_mqtt.web.peers import Networks, client_of, parse_address
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
    """Asks for the password, and adds the headers that keep browsers careful."""

    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self._app = app
        self._guard = Guard(settings.password)
        self._proxies = Networks(settings.trusted_proxies)

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
        if not self._guard.needed:
            return None
        client = scope.get("client")
        peer = parse_address(client[0]) if client else None
        asking = client_of(peer, headers.getlist("x-forwarded-for"), self._proxies)
        match await self._guard.check(headers.get("authorization"), asking):
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
