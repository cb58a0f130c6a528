"""``trireme chat``: an answer at a tier, streamed."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.console import Fault, running

if TYPE_CHECKING:
    from cluster.endpoint import Answer, Message

DIM, NORMAL = "\x1b[2m", "\x1b[0m"


class TierName(StrEnum):
    low = "low"
    medium = "medium"
    high = "high"


def chat(
    prompt: Annotated[
        str | None, typer.Argument(help="What to ask; without it, a conversation.")
    ] = None,
    tier: Annotated[TierName | None, typer.Option(help="Reasoning effort.")] = None,
    model: Annotated[str | None, typer.Option(help="Served name of the model.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the cluster.")] = None,
    url: Annotated[
        str | None, typer.Option(help="Another endpoint, such as https://host:8000.")
    ] = None,
    trust: Annotated[
        Path | None,
        typer.Option(help="That endpoint's certificate (PEM); else authorities count."),
    ] = None,
) -> None:
    """Ask the cluster. The analysis is dimmed, or left out when the output is piped."""
    from cluster.endpoint import EndpointError, model_names

    try:
        base, cert_file = (
            (url.rstrip("/").removesuffix("/v1"), str(trust or ""))
            if url is not None
            else _endpoint(name)
        )
        served = model or model_names(base, cert_file)[0]
        talk = Talk(base, served, tier.value if tier else None, cert_file)
        if prompt is None and not sys.stdin.isatty():
            prompt = sys.stdin.read().strip()
            if not prompt:
                raise Fault("nothing to ask: the input is empty")
        if prompt is not None:
            talk.ask(prompt)
        else:
            talk.converse()
    except EndpointError as error:
        raise Fault(str(error), 1) from error


def _endpoint(name: str | None) -> tuple[str, str]:
    """The URL, and the certificate to trust."""
    state = running(name)
    if state is None:
        raise Fault("no cluster is up; start one with ./trireme up", 1)
    return state.url, state.cert_file


class Talk:
    """A conversation with one model at one tier (None: the server's default)."""

    def __init__(self, url: str, model: str, tier: str | None, cert_file: str = "") -> None:
        self._url = url
        self._cert_file = cert_file
        self._model = model
        self._tier = tier
        self._messages: list[Message] = []
        self._colour = sys.stdout.isatty()

    def ask(self, prompt: str) -> None:
        """Send ``prompt`` and print the answer as it comes."""
        from cluster.endpoint import chat as start_chat

        turn: Message = {"role": "user", "content": prompt}
        messages = [*self._messages, turn]
        going = start_chat(self._url, self._model, self._tier, messages, self._cert_file)  # type: ignore[arg-type]
        dimmed = False
        for piece in going:
            if piece.analysis and not self._colour:
                continue
            if piece.analysis != dimmed:
                sys.stdout.write(DIM if piece.analysis else f"{NORMAL}\n")
                dimmed = piece.analysis
            sys.stdout.write(piece.text)
            sys.stdout.flush()
        sys.stdout.write(f"{NORMAL}\n" if dimmed else "\n")
        sys.stdout.flush()
        self._messages += [turn, {"role": "assistant", "content": going.answer.text}]
        line = summary(going.answer)
        print(f"{DIM}{line}{NORMAL}" if sys.stderr.isatty() else line, file=sys.stderr, flush=True)

    def converse(self) -> None:
        """Turn after turn until the input ends; Ctrl-C breaks off an answer."""
        from cluster.endpoint import EndpointError

        print(f"{self._model}; Ctrl-D ends", file=sys.stderr)
        while True:
            try:
                prompt = input("> ").strip()
            except EOFError:
                print()
                return
            if not prompt:
                continue
            try:
                self.ask(prompt)
            except KeyboardInterrupt:
                print(f"{NORMAL}\n(broken off)")
            except EndpointError as error:
                print(f"{NORMAL if self._colour else ''}error: {error}", file=sys.stderr)


def summary(answer: "Answer") -> str:
    """Tokens, times, tier and replica of an answer, in one line."""
    usage = answer.usage
    written = usage.get("completion_tokens", 0)
    thought = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    parts = [f"{written} tokens" + (f" ({thought} of analysis)" if thought is not None else "")]
    if answer.first_token_s is not None:
        parts.append(f"first after {answer.first_token_s:.2f} s, all after {answer.took_s:.2f} s")
    parts.append(f"tier {answer.tier or '?'}")
    parts.append(f"replica {answer.replica or '?'}")
    return " · ".join(parts)
