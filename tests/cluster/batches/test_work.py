"""Gateways share a batch through the store: every line is somebody's, and answered once."""

import threading
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import func, select, update

from cluster.batches.batches import Batches
from cluster.batches.files import Files, InUse, NewFile, NotThere, Page, TooMany
from cluster.batches.tables import AnswerRow, BatchRow, LineRow
from cluster.batches.views import Batch, Owner
from cluster.batches.work import Answer, Lease, LeaseLost, NewLine, Work
from cluster.tenants.store import Store

OWNER = Owner("a", "key-1", ("low", "medium"), None)
DAY_S = 86_400.0


class Desk:
    """One store, and what is asked of it."""

    def __init__(self, store: Store) -> None:
        self.engine = store.engine
        self.files = Files(store.engine)
        self.batches = Batches(store.engine)

    def gateway(self, name: str = "one", lease_s: float = 60.0) -> Work:
        return Work(self.engine, name, lease_s)

    def batch(self, number: str = "1", lines: int = 0, tenant: str = "a") -> Batch:
        """With lines, one that runs."""
        file = f"file-{tenant}{number}"
        self.files.add(NewFile(file, tenant, "batch", "in.jsonl", 10), DAY_S)
        owner = Owner(tenant)
        made = self.batches.create(f"batch_{tenant}{number}", owner, "/v1/x", file, {}, 10)
        if not lines:
            return made
        work = self.gateway("validator")
        found = work.claim("validating")
        assert found is not None
        work.begin_check(found)
        work.add_lines(found, [NewLine(n, f"c{n}", 10 * n, 10) for n in range(lines)])
        work.accept(found, lines, "m")
        return found

    def status(self, batch: Batch) -> str:
        return str(self.batches.get(batch.owner.tenant, batch.id).shown["status"])

    def set(self, batch: Batch, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(update(BatchRow).where(BatchRow.id == batch.id).values(**values))

    def lapse(self, holder: str) -> None:
        """The gateway has been silent for longer than its leases."""
        with self.engine.begin() as connection:
            for row in (LineRow, BatchRow):
                connection.execute(update(row).where(row.holder == holder).values(leased_until=1.0))

    def count(self, row: Any) -> int:
        with self.engine.connect() as connection:
            return int(connection.execute(select(func.count()).select_from(row)).scalar_one())


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk(store)


def answer(lease: Lease, by: str = "", ok: bool = True) -> Answer:
    return Answer(lease, ok, f"{by}{lease.custom_id}\n".encode())


def test_a_file_is_its_tenants_and_no_others(desk: Desk) -> None:
    made = desk.files.add(NewFile("file-1", "a", "batch", "in.jsonl", 7), DAY_S)
    assert desk.files.get("a", "file-1") == made
    assert made["bytes"] == 7
    assert made["expires_at"] - made["created_at"] in (86_399, 86_400, 86_401)
    for tenant in ("b", ""):
        with pytest.raises(NotThere):
            desk.files.get(tenant, "file-1")
        with pytest.raises(NotThere):
            desk.files.delete(tenant, "file-1")
        with pytest.raises(NotThere):
            desk.batches.create("batch_1", Owner(tenant), "/v1/x", "file-1", {}, 10)
        assert desk.files.page(tenant, Page(), None) == ([], False)
    assert desk.count(BatchRow) == 0


def test_lists_are_paged_in_order(desk: Desk) -> None:
    for number in range(5):
        desk.files.add(NewFile(f"file-{number}", "a", "batch", "x", 1), DAY_S)
    first, more = desk.files.page("a", Page(3), "batch")
    assert ([each["id"] for each in first], more) == (["file-4", "file-3", "file-2"], True)
    rest, more = desk.files.page("a", Page(3, "file-2"), None)
    assert ([each["id"] for each in rest], more) == (["file-1", "file-0"], False)
    oldest, _ = desk.files.page("a", Page(2, "file-1", newest_first=False), None)
    assert [each["id"] for each in oldest] == ["file-2", "file-3"]
    with pytest.raises(NotThere):
        desk.files.page("a", Page(3, "file-9"), None)
    assert desk.files.page("a", Page(), "batch_output") == ([], False)


def test_there_is_a_bound_on_files_and_on_batches(desk: Desk) -> None:
    desk.files.add(NewFile("file-1", "a", "batch", "x", 50), DAY_S)
    desk.files.check_room("a", 2, 100)
    with pytest.raises(TooMany):
        desk.files.check_room("a", 1, 100)
    with pytest.raises(TooMany):
        desk.files.check_room("a", 2, 50)
    desk.batches.create("batch_1", OWNER, "/v1/x", "file-1", {"k": "v"}, 1)
    with pytest.raises(TooMany):
        desk.batches.create("batch_2", OWNER, "/v1/x", "file-1", {}, 1)
    assert desk.count(BatchRow) == 1


def test_a_file_stays_while_a_batch_reads_it(desk: Desk) -> None:
    batch = desk.batch()
    with pytest.raises(InUse):
        desk.files.delete("a", "file-a1")
    desk.set(batch, phase="done")
    desk.files.delete("a", "file-a1")
    with pytest.raises(NotThere):
        desk.files.get("a", "file-a1")


def test_one_gateway_checks_an_input_and_another_goes_on_when_it_dies(desk: Desk) -> None:
    batch = desk.batch()
    one, other = desk.gateway("one"), desk.gateway("other")
    mine = one.claim("validating")
    assert mine is not None
    assert mine.id == batch.id
    assert other.claim("validating") is None
    one.begin_check(mine)
    one.add_lines(mine, [NewLine(0, "c0", 0, 10)])

    desk.lapse("one")
    theirs = other.claim("validating")
    assert theirs is not None
    assert theirs.fence > mine.fence
    with pytest.raises(LeaseLost):
        one.add_lines(mine, [NewLine(1, "c1", 0, 10)])
    with pytest.raises(LeaseLost):
        one.accept(mine, 1, "m")
    with pytest.raises(LeaseLost):
        one.reject(mine, [])
    with pytest.raises(LeaseLost):
        one.begin_check(mine)
    other.begin_check(theirs)
    assert desk.count(LineRow) == 0
    other.add_lines(theirs, [NewLine(0, "c0", 0, 10)])
    other.accept(theirs, 1, "m")
    shown = desk.batches.get("a", batch.id).shown
    assert (shown["status"], shown["request_counts"]["total"]) == ("in_progress", 1)


def test_a_refused_input_leaves_its_errors_and_nothing_else(desk: Desk) -> None:
    desk.batch()
    work = desk.gateway()
    mine = work.claim("validating")
    assert mine is not None
    work.add_lines(mine, [NewLine(0, "c0", 0, 10)])
    fault = {"code": "invalid_json_line", "message": "m", "param": None, "line": 2}
    work.reject(mine, [fault])
    shown = desk.batches.get("a", mine.id).shown
    assert (shown["status"], shown["errors"]["data"]) == ("failed", [fault])
    assert "failed_at" in shown
    assert desk.count(LineRow) == 0


def test_no_line_is_two_gateways_and_a_dead_ones_go_over(desk: Desk) -> None:
    batch = desk.batch(lines=10)
    one, other = desk.gateway("one"), desk.gateway("other")
    mine, theirs = one.lease(batch.id, 6), other.lease(batch.id, 6)
    assert [each.number for each in mine] == list(range(6))
    assert [each.number for each in theirs] == list(range(6, 10))
    assert one.lease(batch.id, 6) == []
    assert one.renew(mine) == {each.key for each in mine}
    (waiting,), running = one.waiting()
    assert (waiting.free_lines, running) == (0, {"a": 10})

    desk.lapse("one")
    (waiting,), running = other.waiting()
    assert (waiting.free_lines, running) == (6, {"a": 4})
    taken = other.lease(batch.id, 10)
    assert [each.number for each in taken] == list(range(6))
    assert one.renew(mine) == set()
    # The one that was taken for dead answers after all: too late.
    assert one.record([answer(each, "one") for each in mine]) == set()
    wrote = other.record([answer(each, "other") for each in (*theirs, *taken)])
    assert len(wrote) == 10
    assert other.record([answer(taken[0], "again")]) == set()
    one.advance()
    ending = one.claim("ending")
    assert ending is not None
    assert list(one.answers(ending, ok=True)) == [f"otherc{n}\n".encode() for n in range(10)]


def test_a_lapsed_lease_that_nobody_took_still_counts(desk: Desk) -> None:
    batch = desk.batch(lines=1)
    one = desk.gateway("one")
    mine = one.lease(batch.id, 1)
    desk.lapse("one")
    assert one.record([answer(mine[0])]) == {mine[0].key}


def test_a_line_that_is_put_back_waits_and_counts_its_attempts(desk: Desk) -> None:
    batch = desk.batch(lines=2)
    work = desk.gateway()
    first, second = work.lease(batch.id, 2)
    work.put_back({first: (60.0, True), second: (-1.0, False)})
    (again,) = work.lease(batch.id, 2)
    assert (again.number, again.attempts, again.fence) == (1, 0, second.fence + 1)
    desk.lapse("")
    (first_again,) = work.lease(batch.id, 2)
    assert (first_again.number, first_again.attempts) == (0, 1)


def test_a_batch_gets_its_files_once(desk: Desk) -> None:
    batch = desk.batch(lines=3)
    one, other = desk.gateway("one"), desk.gateway("other")
    leases = one.lease(batch.id, 3)
    one.record([answer(leases[0]), answer(leases[1], ok=False)])
    one.advance()
    assert desk.status(batch) == "in_progress"
    one.record([answer(leases[2])])
    one.advance()
    assert desk.status(batch) == "finalizing"

    mine = one.claim("ending")
    assert mine is not None
    desk.lapse("one")
    theirs = other.claim("ending")
    assert theirs is not None
    late = NewFile("file-late", "a", "batch_output", "out.jsonl", 1)
    out = NewFile("file-out", "a", "batch_output", "out.jsonl", 1)
    bad = NewFile("file-bad", "a", "batch_output", "err.jsonl", 1)
    other.finish(theirs, out, bad, DAY_S)
    with pytest.raises(LeaseLost):
        one.finish(mine, late, None, DAY_S)
    shown = desk.batches.get("a", batch.id).shown
    assert shown["status"] == "completed"
    assert (shown["output_file_id"], shown["error_file_id"]) == ("file-out", "file-bad")
    assert shown["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    with pytest.raises(NotThere):
        desk.files.get("a", "file-late")

    other.sweep(DAY_S)
    assert (desk.count(LineRow), desk.count(AnswerRow), desk.count(BatchRow)) == (0, 0, 1)
    other.sweep(-1.0)
    assert desk.count(BatchRow) == 0


def test_a_cancelled_batch_waits_for_what_runs_and_starts_nothing(desk: Desk) -> None:
    batch = desk.batch(lines=3)
    work = desk.gateway()
    (mine,) = work.lease(batch.id, 1)
    cancelled, done = desk.batches.cancel("a", batch.id)
    assert (done, cancelled.shown["status"]) == (True, "cancelling")
    with pytest.raises(NotThere):
        desk.batches.cancel("b", batch.id)
    assert work.lease(batch.id, 3) == []
    assert work.renew([mine]) == set()  # so that the gateway lets go of it
    work.advance()
    assert work.claim("ending") is None
    work.record([answer(mine)])
    work.advance()
    ending = work.claim("ending")
    assert ending is not None
    assert ending.outcome == "cancelled"
    assert list(work.unanswered(ending)) == [(1, "c1"), (2, "c2")]
    work.finish(ending, None, None, DAY_S)
    assert desk.status(batch) == "cancelled"
    assert desk.batches.cancel("a", batch.id)[0].shown["status"] == "cancelled"


def test_one_that_is_cancelled_before_its_check_is_over_at_once(desk: Desk) -> None:
    batch = desk.batch()
    work = desk.gateway()
    mine = work.claim("validating")
    assert mine is not None
    assert desk.batches.cancel("a", batch.id)[1]
    with pytest.raises(LeaseLost):
        work.accept(mine, 1, "m")
    ending = work.claim("ending")
    assert ending is not None
    assert ending.total == 0


def test_a_batch_expires(desk: Desk) -> None:
    batch = desk.batch(lines=2)
    work = desk.gateway()
    work.record([answer(each) for each in work.lease(batch.id, 1)])
    desk.set(batch, expires_at=1.0)
    work.advance()
    ending = work.claim("ending")
    assert ending is not None
    assert ending.outcome == "expired"
    # Nothing is added to what its files are made of.
    assert work.lease(batch.id, 1) == []
    work.finish(ending, None, None, DAY_S)
    shown = desk.batches.get("a", batch.id).shown
    assert (shown["status"], "expired_at" in shown) == ("expired", True)


def test_one_whose_input_nobody_can_read_expires_too(desk: Desk) -> None:
    batch = desk.batch()
    work = desk.gateway()
    mine = work.claim("validating")
    assert mine is not None
    desk.set(batch, expires_at=1.0)
    work.advance()
    with pytest.raises(LeaseLost):
        work.accept(mine, 1, "m")
    ending = work.claim("ending")
    assert ending is not None
    work.finish(ending, None, None, DAY_S)
    assert desk.status(batch) == "expired"


def test_an_answer_that_comes_while_the_files_are_made_is_dropped(desk: Desk) -> None:
    batch = desk.batch(lines=2)
    work = desk.gateway("one")
    leases = work.lease(batch.id, 2)
    work.record([answer(leases[0])])
    desk.lapse("one")
    desk.set(batch, expires_at=1.0)
    work.advance()
    assert desk.status(batch) == "finalizing"
    assert work.record([answer(leases[1])]) == set()


@pytest.mark.timeout(120)
def test_four_gateways_at_once_answer_every_line_exactly_once(desk: Desk) -> None:
    total = 400
    batches = [desk.batch("1", total), desk.batch("2", total)]
    written: Counter[tuple[str, int]] = Counter()
    errors: list[BaseException] = []

    def gateway(number: int) -> None:
        work = desk.gateway(f"g{number}")
        try:
            while True:
                leases = [each for batch in batches for each in work.lease(batch.id, 16)]
                if not leases:
                    return
                if number == 0 and len(written) > total // 4:
                    return  # dies with what it holds
                taken = work.record([answer(each) for each in leases])
                written.update((key[0], key[1]) for key in taken)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=gateway, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    desk.lapse("g0")
    gateway(9)
    assert errors == []
    assert len(written) == 2 * total
    assert set(written.values()) == {1}
    assert desk.count(AnswerRow) == 2 * total
    for batch in batches:
        counts = desk.batches.get("a", batch.id).shown["request_counts"]
        assert counts == {"total": total, "completed": total, "failed": 0}
