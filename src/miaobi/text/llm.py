"""Two ways to a language model: a server that speaks OpenAI's API, and llama.cpp in this process."""

import atexit
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from miaobi.errors import InputError, MachineError

if TYPE_CHECKING:
    import httpx2 as httpx
    import openai

MAX_BYTES = 256 * 1024
"""What is read of a server's answer."""
MAX_TOKENS = 900
_CONTEXT_TOKENS = 4096
_LAST_WAIT_S = 30.0  # for native code that a thread is in when the interpreter ends
Messages = list[dict[str, str]]


class OpenAIModel:
    """A chat model behind `base_url`. Redirects and compressed answers are refused, nothing is retried."""

    def __init__(self, model: str, base_url: str) -> None:
        parts = urlsplit(base_url)
        if not model or parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(
                f"model {model[:60]!r} at {base_url[:80]!r}; give openai:MODEL@BASE_URL,"
                " such as openai:llama3@http://127.0.0.1:8080/v1."
            )
        try:
            import openai  # noqa: F401
        except ImportError as error:
            raise MachineError("no package `openai`; pip install 'miaobi[llm]'.") from error
        self.name = f"openai:{model}"
        self._model, self._base_url = model, base_url
        self._key = os.environ.get("MIAOBI_LLM_API_KEY", "")
        if not self._key and parts.hostname == "api.openai.com":
            self._key = os.environ.get("OPENAI_API_KEY", "")
        self._takes_schema = True
        self._clients: list[httpx.Client] = []

    def ask(self, messages: Messages, schema: dict[str, Any], stop: threading.Event, deadline: float) -> str:
        """As `expand.Model.ask`. A server that refuses the schema is asked again without it."""
        import openai

        shape = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        with _client(stop, deadline) as http:
            self._clients.append(http)
            try:
                client = openai.OpenAI(
                    base_url=self._base_url,
                    api_key=self._key or "none",
                    http_client=http,
                    max_retries=0,
                    timeout=max(0.01, deadline - time.monotonic()),
                )
                if self._takes_schema:
                    try:
                        return self._complete(client, messages, {"response_format": shape})
                    except (openai.BadRequestError, openai.UnprocessableEntityError):
                        self._takes_schema = False
                return self._complete(client, messages, {})
            except openai.APITimeoutError as error:  # its clock and the planner's may ring in either order
                raise TimeoutError from error
            finally:
                self._clients.remove(http)

    def _complete(self, client: "openai.OpenAI", messages: Messages, more: dict[str, Any]) -> str:
        chat: Any = client.chat.completions
        answer = chat.create(
            model=self._model, messages=messages, temperature=0, max_tokens=MAX_TOKENS, **more
        )
        text = answer.choices[0].message.content if getattr(answer, "choices", None) else None
        if not isinstance(text, str):
            raise MachineError("the server's answer holds no text.")
        return text

    def abandon(self) -> None:
        """Close the connections, so that a server that drips does not hold their threads."""
        for client in list(self._clients):
            with suppress(Exception):  # a race with the thread that owns it
                client.close()


def _client(stop: threading.Event, deadline: float) -> "httpx.Client":
    """An HTTP client whose answers end after `MAX_BYTES`, at the deadline and when told to."""
    import httpx2 as httpx

    class Bounded(httpx.SyncByteStream):
        def __init__(self, stream: httpx.SyncByteStream) -> None:
            self.stream = stream

        def __iter__(self) -> Iterator[bytes]:
            read = 0
            for part in self.stream:
                read += len(part)
                if read > MAX_BYTES:
                    raise httpx.ReadError(f"more than {MAX_BYTES} bytes")
                if stop.is_set() or time.monotonic() > deadline:
                    raise TimeoutError
                yield part

        def close(self) -> None:
            self.stream.close()

    class Transport(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            request.headers["accept-encoding"] = "identity"
            response = super().handle_request(request)
            if response.headers.get("content-encoding", "identity") != "identity":
                response.close()
                raise httpx.ReadError("a compressed answer, which was not asked for")
            assert isinstance(response.stream, httpx.SyncByteStream)
            response.stream = Bounded(response.stream)
            return response

    return httpx.Client(transport=Transport(), follow_redirects=False)


class GgufModel:
    """A GGUF file, run by llama.cpp (`xllamacpp`) in this process.

    It is loaded at once, outside any time-out: llama.cpp may hold up the whole process meanwhile.
    """

    def __init__(self, path: str, threads: int | None = None) -> None:
        file = Path(path).expanduser()
        try:
            with open(file, "rb") as opened:
                magic = opened.read(4)
        except OSError as error:
            raise InputError(
                f"cannot read {str(file)!r}: {error.strerror}; give gguf:PATH of a chat model."
            ) from error
        if magic != b"GGUF":
            raise InputError(f"{str(file)!r} is no GGUF file; give gguf:PATH of a chat model.")
        try:
            import xllamacpp  # noqa: F401
        except ImportError as error:
            raise MachineError("no package `xllamacpp`; pip install 'miaobi[llm]'.") from error
        self.name = f"gguf:{file.name}"
        self._path, self._threads = file, threads or min(8, os.cpu_count() or 1)
        try:
            self._server = self._load()
        except Exception as error:  # llama.cpp raises whatever it likes
            raise MachineError(
                f"llama.cpp cannot load {str(file)!r} ({str(error)[:160]}); try another model."
            ) from error
        self._lock, self._closing = threading.Lock(), threading.Event()
        atexit.register(_finish, self._lock, self._closing)

    def ask(self, messages: Messages, schema: dict[str, Any], stop: threading.Event, deadline: float) -> str:
        """As `expand.Model.ask`; the grammar of the schema holds the model to it while it writes."""
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        try:
            parts: list[str] = []
            failed: list[str] = []

            def take(chunk: Any) -> bool:
                """Collect a piece; true ends the writing."""
                if not isinstance(chunk, dict) or "error" in chunk:
                    failed.append(str(chunk)[:160])
                    return True
                for choice in chunk.get("choices", []):
                    parts.append(choice.get("delta", {}).get("content") or "")
                return stop.is_set() or self._closing.is_set() or time.monotonic() > deadline

            shape = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
            self._server.handle_chat_completions(
                {
                    "messages": messages,
                    "max_tokens": MAX_TOKENS,
                    "temperature": 0,
                    "stream": True,
                    "response_format": shape,
                },
                take,
            )
        finally:
            self._lock.release()
        if failed:
            raise MachineError(f"llama.cpp failed: {failed[0]}.")
        if stop.is_set() or time.monotonic() > deadline:
            raise TimeoutError
        return "".join(parts)

    def abandon(self) -> None:
        """Nothing to do: `stop` ends the writing at the next token."""

    def _load(self) -> Any:
        import xllamacpp

        settings = xllamacpp.CommonParams()
        settings.model.path = str(self._path)
        settings.n_ctx, settings.n_parallel = _CONTEXT_TOKENS, 1
        settings.warmup, settings.verbosity, settings.offline = False, -1, True
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = self._threads
        settings.api_keys = [secrets.token_urlsafe(32)]  # it also listens on 127.0.0.1: for nobody
        return xllamacpp.Server(settings)


def _finish(lock: threading.Lock, closing: threading.Event) -> None:
    """Let the last call end before the interpreter does: threads cannot be stopped inside native code."""
    closing.set()
    lock.acquire(timeout=_LAST_WAIT_S)
