"""Signals: remembered, raised only where stopping loses nothing, and handed back afterwards."""

from __future__ import annotations

import contextlib
import signal

import pytest

from credo.interruption import Interrupted, Interruption


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
