"""Signals: remembered, raised only where stopping loses nothing, and handed back afterwards."""

from __future__ import annotations

import contextlib
import signal
import threading

import pytest

from credo.interruption import Interrupted, Interruption, ask_to_end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_remembered_and_raises_only_where_it_may(number: signal.Signals):
    with Interruption().listening() as interruption:
        signal.raise_signal(number)
        assert interruption.requested


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_an_allowed_block_ends_it_at_once(number: signal.Signals):
    with Interruption().listening() as interruption:
        with pytest.raises(Interrupted), interruption.allowed():
            signal.raise_signal(number)
        assert interruption.requested


def test_an_earlier_signal_raises_on_entry():
    with Interruption().listening() as interruption:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted), interruption.allowed():
            pytest.fail("the block was entered")


def test_after_an_allowed_block_a_signal_waits_again():
    with Interruption().listening() as interruption:
        with interruption.allowed():
            pass
        signal.raise_signal(signal.SIGTERM)
        assert interruption.requested


def test_it_raises_once_however_often_the_system_asks():
    with Interruption().listening() as interruption:
        with pytest.raises(Interrupted), interruption.allowed():
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)


def test_a_second_ctrl_c_ends_it_even_where_that_loses_something():
    with Interruption().listening():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_code_that_swallows_errors_does_not_swallow_it():
    with (
        Interruption().listening() as interruption,
        pytest.raises(Interrupted),
        interruption.allowed(),
        contextlib.suppress(Exception),
    ):
        signal.raise_signal(signal.SIGTERM)


def test_signals_are_handed_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with contextlib.suppress(ValueError), Interruption().listening():
        assert signal.getsignal(signal.SIGTERM) != before[0]
        raise ValueError
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


class Others:
    """The other ranks: what they say when asked whether anybody was told to end."""

    def __init__(self, told: bool = False) -> None:
        self.told = told
        self.asked: list[bool] = []

    def agreed(self, here: bool) -> bool:
        self.asked.append(here)
        return here or self.told


def test_ranks_stop_in_the_same_place_whoever_was_told():
    others = Others()
    with Interruption(others.agreed).listening() as interruption:
        with interruption.allowed():
            pass
        others.told = True
        with pytest.raises(Interrupted), interruption.allowed():
            pytest.fail("the block was entered")
        assert not interruption.requested
        others.told = False
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted), interruption.allowed():
            pytest.fail("the block was entered")
    assert others.asked == [False, False, True], "every rank asks every time, once"


def test_with_other_ranks_only_the_work_of_one_is_left_at_once():
    entered: list[str] = []
    with Interruption(Others().agreed).listening() as interruption:
        with interruption.allowed():
            with interruption.alone():
                entered.append("work")
            signal.raise_signal(signal.SIGTERM)  # between the work of one and the next the others are waited for
            entered.append("exchange")
            with pytest.raises(Interrupted), interruption.alone():
                pytest.fail("more work was begun")
        with interruption.alone():
            entered.append("saving")
    assert entered == ["work", "exchange", "saving"], "where nothing may stop, the work of one may not either"


def test_a_signal_in_the_work_of_one_rank_ends_it_at_once():
    with Interruption(Others().agreed).listening() as interruption:
        with interruption.allowed():
            with pytest.raises(Interrupted), interruption.alone():
                signal.raise_signal(signal.SIGTERM)
                pytest.fail("the work went on")
            signal.raise_signal(signal.SIGTERM)
        assert interruption.requested
        with interruption.alone():
            signal.raise_signal(signal.SIGTERM)


def test_alone_means_nothing_outside_of_where_a_run_may_stop():
    with Interruption().listening() as interruption:
        signal.raise_signal(signal.SIGTERM)
        with interruption.alone():
            signal.raise_signal(signal.SIGTERM)


def test_a_run_in_a_thread_is_asked_instead():
    """Threads get no signals, as where Ray runs a worker."""
    ended: list[str] = []
    listening, asked = threading.Event(), threading.Event()

    def run() -> None:
        with Interruption().listening() as interruption:
            listening.set()
            assert asked.wait(30)
            try:
                with interruption.allowed():
                    ended.append("went on")
            except Interrupted:
                ended.append("stopped")

    thread = threading.Thread(target=run)
    thread.start()
    assert listening.wait(30)
    ask_to_end()
    asked.set()
    thread.join()
    assert ended == ["stopped"]
    with Interruption().listening() as interruption:
        assert not interruption.requested, "who listens later was not meant"
