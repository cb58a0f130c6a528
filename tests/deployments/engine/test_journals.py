"""What replicas keep of resumable requests, by itself and over real connections."""

import asyncio
from contextlib import AsyncExitStack

import msgspec

from deployments.engine.channel.client import EngineLink
from deployments.engine.channel.frames import (
    ABORTED,
    PROTOCOL_VERSION,
    STOP,
    Load,
    Output,
    Recalled,
    Sampling,
    Submit,
    Welcome,
    decode_from_engine,
    decode_from_gateway,
    encode,
    encoder,
)
from deployments.engine.host import EngineHost
from deployments.engine.journals import Journal, Journals
from deployments.engine.simulated import reply
from tests.deployments.engine.channel_world import (
    Recorder,
    linked,
    quick_engine,
    running_host,
    submission,
)

STEP_MS = {"base": 20}
KEEP_S = 600.0


def journal(journals: Journals, name: str, tokens: int, keep_s: float = 10.0) -> Journal:
    made = journals.begin(name, keep_s, (), lambda: True)
    made.add(Output(1, list(range(tokens))))
    return made


def test_a_journal_is_kept_until_its_time_after_the_end_is_over() -> None:
    journals = Journals()
    first = journal(journals, "a", 3)
    found = journals.find("a", 1000.0)
    assert found is first  # it runs
    journals.end(first, 1000.0)
    assert journals.find("a", 1009.9) is first
    assert journals.find("a", 1010.0) is None
    assert len(journals) == 0


def test_the_oldest_that_have_ended_make_room_and_none_that_runs() -> None:
    journals = Journals(max_kept_tokens=100)
    running = journal(journals, "running", 500)
    for number in range(5):
        journals.end(journal(journals, f"ended {number}", 40), float(number))
    kept = [number for number in range(5) if journals.find(f"ended {number}", 4.0)]
    assert kept == [3, 4]
    assert journals.find("running", 4.0) is running
    journals.end(running, 5.0)  # larger than all that may be kept
    assert len(journals) == 0


def test_a_request_that_goes_on_takes_the_place_of_its_journal() -> None:
    journals = Journals()
    first = journal(journals, "a", 3)
    again = journals.begin("a", 10.0, [7, 8, 9], lambda: True)
    journals.end(first, 1.0)  # its client came back before the old connection was given up
    assert journals.find("a", 2.0) is again
    journals.end(again, 3.0)
    third = journals.begin("a", 10.0, [7, 8, 9, 10], lambda: True)
    assert journals.find("a", 1e6) is third
    assert len(journals) == 1


def test_an_end_that_the_engine_did_not_make_is_none() -> None:
    journals = Journals()
    cut, ended = journal(journals, "a", 1), journal(journals, "b", 1)
    cut.add(Output(1, [], ABORTED))
    assert cut.finish is None
    ended.add(Output(1, [5], STOP, 17))
    assert (ended.finish, ended.stop_reason, ended.tokens.tolist()) == (STOP, 17, [0, 5])


# ------------------------------------------------------------------ over the channel


def resumable(stream: int, journal: str = "j", tier: str = "high", seed: int = 0) -> Submit:
    made = submission(stream, tier)
    made.sampling = Sampling(10_000, seed=seed)
    made.journal, made.journal_s = journal, KEEP_S
    return made


def whole(host: EngineHost, submit: Submit) -> list[int]:
    config = host.engine.config  # type: ignore[attr-defined]
    tier, seed = submit.tier, submit.sampling.seed or 0
    return reply(submit.prompt_token_ids, tier, seed, config)  # type: ignore[arg-type]


async def asked(link: EngineLink, journal: str = "j") -> Recalled:
    async with asyncio.timeout(10):
        found = await link.recall(journal)
    assert found is not None
    return found


async def test_what_a_dead_gateway_s_request_wrote_is_known_to_another_gateway() -> None:
    first, second = Recorder(), Recorder()
    async with (
        running_host(quick_engine(step_ms=STEP_MS)) as host,
        linked(host, second, gateway_id="gateway-2") as other,
        AsyncExitStack() as dying,
    ):
        link = await dying.enter_async_context(linked(host, first))
        await first.until(lambda: first.welcomes)
        await second.until(lambda: second.welcomes)
        submit = resumable(1)
        link.submit(submit)
        await first.until(lambda: len(first.tokens.get(1, ())) >= 5)
        running = await asked(other)
        assert running.found
        assert running.lives
        assert running.cached_tokens == 0
        await dying.aclose()
        async with asyncio.timeout(10):
            while host.pending:  # the work is given up, as ever
                await asyncio.sleep(0.01)
        left = await asked(other)
        assert not left.lives
        assert left.finish is None
        assert left.tokens == whole(host, submit)[: len(left.tokens)]
        assert len(left.tokens) >= len(first.tokens[1]) >= 5
        assert not (await asked(other, "another name")).found


async def test_a_reply_that_ended_unheard_is_kept_whole_with_its_end() -> None:
    recorder = Recorder()
    async with running_host(quick_engine()) as host, linked(host, recorder) as link:
        await recorder.until(lambda: recorder.welcomes)
        submit = resumable(1, tier="low")
        link.submit(submit)
        await recorder.until(lambda: 1 in recorder.finished)
        found = await asked(link)
        assert found.tokens == recorder.tokens[1] == whole(host, submit)
        assert found.finish == STOP
        assert found.lives


async def test_tokens_of_an_earlier_replica_are_part_of_the_journal() -> None:
    recorder = Recorder()
    async with running_host(quick_engine()) as host, linked(host, recorder) as link:
        await recorder.until(lambda: recorder.welcomes)
        submit = resumable(1, tier="low")
        text = whole(host, submit)
        submit.emitted = text[:7]
        link.submit(submit)
        await recorder.until(lambda: 1 in recorder.finished)
        assert recorder.tokens[1] == text[7:]
        assert (await asked(link)).tokens == text


async def test_nothing_is_kept_of_a_request_that_did_not_ask() -> None:
    recorder = Recorder()
    async with running_host(quick_engine()) as host, linked(host, recorder) as link:
        await recorder.until(lambda: recorder.welcomes)
        link.submit(submission(1))
        await recorder.until(lambda: 1 in recorder.finished)
        assert len(host.journals) == 0
        assert not (await asked(link, "")).found


# ------------------------------------------------------------------ mixed versions


async def test_a_replica_that_keeps_none_is_not_asked() -> None:
    """An older one would take the question for a broken frame, and hang up."""
    recorder = Recorder()
    async with running_host(quick_engine()) as host:
        welcome = host.server.handlers.welcome
        older = msgspec.structs.replace
        handlers = host.server.handlers
        object.__setattr__(handlers, "welcome", lambda: older(welcome(), journals=False))
        async with linked(host, recorder) as link:
            await recorder.until(lambda: recorder.welcomes)
            assert await link.recall("j") is None
            assert not recorder.downs
            assert link.is_up


def test_older_peers_frames_are_read_and_they_read_ours() -> None:
    submit = resumable(4)
    wire = msgspec.msgpack.decode(encode(submit)[4:])
    before = len(wire) - 3  # the journal's name and time, and whether it is a suspect
    older = decode_from_gateway(encoder.encode(wire[:before]))
    assert isinstance(older, Submit)
    assert (older.stream, older.journal, older.journal_s, older.suspect) == (4, "", 0.0, False)
    assert decode_from_gateway(encoder.encode([*wire, "a field of a later version"])) == submit
    welcome = Welcome(PROTOCOL_VERSION, "r", "e", 1, 2, 3, Load(), True, True, True)
    wire = msgspec.msgpack.decode(encode(welcome)[4:])
    read = decode_from_engine(encoder.encode(wire[:-2]))
    assert read == msgspec.structs.replace(welcome, journals=False, poisons=False)
