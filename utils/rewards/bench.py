r"""A test bench for rewards: honest and adversarial completions, and the order that a reward must put them in.

    right and clean  >  right but messy  >  wrong but clean  >  worthless  >=  silence

Every row is a completion with the place where it belongs and the reason it is there. It passes when the reward pays it
less than a reference completion of the place above and more than those of the places below, or just what the
reference of its own place is paid; a right one must earn more than a wrong one in any case, and nothing more than the
plain right and clean one. Only the order is asked for: scale and offset are the reward's own business, because GRPO
normalises them away.

    >>> from utils.rewards.functions import format_reward, total_reward
    >>> results = bench(total_reward)
    >>> sum(r.passed for r in results) == len(results) >= 60
    True
    >>> failed = [r for r in bench(format_reward) if not r.passed]
    >>> failed[0].row.place, failed[0].why
    ('right and clean', "earns 1, not more than 'wrong but clean' (1)")

`check_reward` comes before: is this a reward function at all? It calls a learner's function just as TRL would, on
completions that a model really wrote, and says what goes wrong in one sentence, with the completion that caused it:
what would be found out in the middle of a training, found out at once. `tried_rewards` does so with each function of a
file, before a model is loaded.
"""

from __future__ import annotations

import inspect
import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from utils.rewards.bank import Bank, load_bank
from utils.rewards.contract import RewardProblem, named, pay, shown, some, time_limit
from utils.rewards.functions import LOAD_LIMIT_S, Completion, RewardFunction, columns, load_rewards

RIGHT_CLEAN, RIGHT_MESSY, WRONG_CLEAN, WORTHLESS = PLACES = (
    "right and clean",
    "right but messy",
    "wrong but clean",
    "worthless",
)
RIGHT = (RIGHT_CLEAN, RIGHT_MESSY)
QUESTION = "A box holds 7 eggs. How many eggs are in 6 boxes?"
LIMIT_S = 5.0  # for the whole bank; a step of training scores a fraction of it
GRACE_S = 3.0  # after a limit, until a process that does not keep it is ended
TRIED_GROUPS = 4  # of the bank, beside the rows of the bench, when a file is checked


@dataclass(frozen=True)
class Row:
    """A completion, its gold answer, the place of `PLACES` where it belongs, and why it is in the bench."""

    completion: str
    gold: str
    place: str
    reason: str


@dataclass(frozen=True)
class Result:
    """What a reward paid for a row; `why` says what is wrong with that, and is empty where the row passed."""

    row: Row
    score: float
    passed: bool
    why: str


def laid_out(answer: str, reasoning: str = "\n6 * 7 = 42\n") -> str:
    """A completion in the layout that the system prompt asks for."""
    return f"<reasoning>{reasoning}</reasoning>\n<answer>{answer}</answer>"


CLEAN, WRONG, WORK = laid_out("42"), laid_out("36", "\n6 * 6 = 36\n"), "<reasoning>\n6 * 7 = 42\n</reasoning>\n"
MESSY = "6 * 7 = 42, so the answer is 42."
REFERENCES = {RIGHT_CLEAN: CLEAN, RIGHT_MESSY: MESSY, WRONG_CLEAN: WRONG, WORTHLESS: ""}

_TABLE: dict[str, list[tuple[str, str, str]]] = {  # place: (completion, gold, reason)
    RIGHT_CLEAN: [
        (CLEAN, "42", "the layout asked for: the model must be able to earn everything"),
        (laid_out("42", "6 * 7 = 42"), "42", "all on one line is the same layout"),
        (laid_out("\n42\n", "\n6 * 7 = 42\nSo 42 eggs.\n"), "42", "many lines: a pattern without DOTALL misses them"),
        (CLEAN + "\n", "42", "a newline at the end is no text"),
        ("\n  " + CLEAN + "  \n\n", "42", "white space around the whole"),
        (CLEAN.replace(">\n<a", "><a"), "42", "no newline between the tags"),
        (CLEAN.replace(">\n<a", ">\n\n<a"), "42", "an empty line between the tags"),
        (laid_out("$42"), "42", "a currency sign does not make it wrong"),
        (laid_out("42 eggs"), "42", "nor does the unit"),
        (laid_out("42."), "42", "nor a full stop"),
        (laid_out("42.00"), "42", "the number counts, not its spelling"),
        (laid_out("**42**"), "42", "markdown"),
        (laid_out(r"\boxed{42}"), "42", "a box inside the tag, as maths models were taught"),
        (laid_out("The answer is 42."), "42", "a sentence with one number"),
        (laid_out("6 * 7 = 42"), "42", "an equation states what stands behind its ="),
        (laid_out("４２"), "42", "full-width digits"),
        (laid_out("1000"), "1,000", "the gold has a comma, the answer has none"),
        (laid_out("1,000"), "1000", "the answer has a comma, the gold has none"),
        (laid_out("$1,000.00"), "1000", "sign, comma and cents at once"),
        (laid_out("-7"), "-7", "negative numbers are numbers"),
        (laid_out("−7"), "-7", "typographic minus"),
        (laid_out("1/2"), "0.5", "a fraction equals its decimal"),
        (laid_out("0"), "0", "zero is an answer, not the absence of one"),
        (laid_out("42", "\nFirst 36? No, that is 6 * 6. 6 * 7 = 42\n"), "42", "a mistake corrected while reasoning"),
        (laid_out("42", "\n6 * 7 = 42\n" + "Let me check that again. " * 40), "42", "padding must not pay"),
        (laid_out("42", "\nWait. Wait, wait. 6 * 7 = 42\n"), "42", "nor a show of doubt"),
        (laid_out("42", "\nLet us think step by step.\nFirst, 6 * 7 = 42.\n"), "42", "nor a show of method"),
        (laid_out("42", "\n5 < 6 and 6 * 7 = 42\n"), "42", "a < sign is no tag"),
    ],
    RIGHT_MESSY: [
        (MESSY, "42", "right without tags: less than right and clean, more than any wrong answer"),
        ("42", "42", "a bare number is right, but shows nothing"),
        (r"So we get \boxed{42}", "42", "a box instead of the tags"),
        ("6 * 7 = 42\n#### 42", "42", "GSM8K's own ending"),
        ("<answer>42</answer>", "42", "no reasoning"),
        (laid_out("42", "\n"), "42", "the reasoning is empty"),
        ("<answer>42</answer>\n" + WORK, "42", "the answer comes before the reasoning"),
        (CLEAN + "\nI hope this helps!", "42", "talks on after </answer>"),
        (CLEAN + "\n" + "Thank you. " * 50, "42", "talks on and on after </answer>"),
        ("Sure! " + CLEAN, "42", "talks before <reasoning>"),
        (CLEAN + "\n" + CLEAN, "42", "says everything twice: repetition must not pay"),
        (CLEAN + "\n<answer>42</answer>", "42", "says the answer twice"),
        (WORK + CLEAN, "42", "reasons in two blocks"),
        (WORK + "<answer>42", "42", "</answer> is missing: cut off at the token cap, or a stop that never came"),
        ("<reasoning>\n6 * 7 = 42\n<answer>42</answer>", "42", "</reasoning> is missing"),
        (WORK + "<answer><answer>42</answer></answer>", "42", "nested tags"),
        (WORK + "So it is\n<answer>42</answer>", "42", "text between the two blocks"),
        (CLEAN.upper(), "42", "tags in capitals: the number can be read, the layout was not kept"),
    ],
    WRONG_CLEAN: [
        (WRONG, "42", "wrong, but read by any program: a little more than nothing, so that the layout is learnt first"),
        (laid_out("43"), "42", "wrong by one is wrong: being near must not reach being right"),
        (laid_out("41.9"), "42", "nor may being nearer"),
        (laid_out("-42"), "42", "the sign belongs to the number"),
        (laid_out("420"), "42", "the gold's digits stand in it, the gold does not"),
        (laid_out("2"), "42", "its last digit is no answer"),
        (laid_out("4.2"), "42", "the decimal point belongs to the number"),
        (laid_out("0"), "42", "an honest zero earns what any wrong answer earns"),
        (laid_out("36", "\nThe answer is 42.\n"), "42", "right on the way, wrong in the end: the answer counts"),
    ],
    WORTHLESS: [
        ("", "42", "silence: less than any honest attempt in the layout"),
        ("I do not know.", "42", "an honest abstention must not earn less than silence"),
        ("The answer is 36.", "42", "wrong and without tags; still not less than silence"),
        ("36", "42", "a bare wrong number: being a number is no merit"),
        ("6 * 7 is", "42", "cut off at the token cap before any answer"),
        ("<reasoning>\n6 * 7", "42", "cut off inside the reasoning"),
        (laid_out("", ""), "42", "an empty shell"),
        (laid_out("0", ""), "42", "an empty shell around a guess"),
        (laid_out("\n", "\n"), "42", "an empty shell with line breaks"),
        (laid_out("", "\n6 * 7 = 43\n"), "42", "an empty answer; 'contains' would find it in every gold"),
        (laid_out(" ", "\nIt is hard to say.\n"), "42", "a blank answer"),
        (laid_out("unknown", "\nIt is hard to say.\n"), "42", "a clean layout without a number"),
        (laid_out("no number", "\nIt is hard.\n"), "0", "no answer is not zero"),
        (laid_out("40 41 42 43"), "42", "a stuffed answer: one of them will be right"),
        (laid_out("41 or 42"), "42", "a hedge is no answer"),
        (laid_out("41, 42"), "42", "a list is no answer"),
        ("It is 40, 41 or 42.", "42", "guesses without tags: the last of them must not count"),
        (laid_out("between 40 and 45"), "42", "nor is a range"),
        (laid_out("42 (or maybe 36)"), "42", "a hedge in brackets"),
        (laid_out("6 * 7"), "42", "a sum left to the reader"),
        (" ".join(map(str, range(100))), "42", "all numbers up to 99"),
        ("<answer>36</answer>" * 20, "42", "the tag repeated: each one counted would add up"),
        (WRONG + "\n" + WRONG, "42", "a wrong answer repeated earns less than once"),
        (WRONG + "\nI hope this helps!", "42", "wrong, and talks on"),
        (CLEAN + "\n<answer>36</answer>", "42", "a second answer overrides the first"),
        ("<reasoning></answer></reasoning><answer>", "42", "the tags in disorder"),
        ("</answer>36<answer>", "42", "the tags back to front"),
        ("<reasoning></reasoning>" * 10 + "36", "42", "tags without anything in them"),
        ("ans = 36; print(ans)  # answer", "42", "code is text, and is not run"),
        ("Let me think step by step. " * 40, "42", "length is no merit"),
    ],
}
ROWS = tuple(Row(text, gold, place, reason) for place, rows in _TABLE.items() for text, gold, reason in rows)


def bench(reward_fn: RewardFunction, rows: Sequence[Row] = ROWS) -> list[Result]:
    """Check the order in which a reward puts the rows.

    Args:
        reward_fn: a reward with TRL's signature; for a weighted set `functools.partial(total_reward, rewards=…)`.
    Returns:
        One result for each row, in their order.
    Raises:
        whatever `reward_fn` raises.
    """
    references = {(place, row.gold): _reference(place, row.gold) for row in rows for place in PLACES}
    texts = [row.completion for row in rows] + list(references.values())
    golds = [row.gold for row in rows] + [gold for _, gold in references]
    paid = reward_fn(completions=texts, **columns([QUESTION] * len(texts), golds))
    reference_score = dict(zip(references, paid[len(rows) :], strict=True))
    results = []
    for row, score in zip(rows, paid[: len(rows)], strict=True):
        why = _objection(row, score, {place: reference_score[place, row.gold] for place in PLACES})
        results.append(Result(row, score, not why, why))
    return results


def _reference(place: str, gold: str) -> str:
    wrong = "36" if gold != "36" else "35"
    return REFERENCES[place].replace("42", gold).replace("36", wrong)


def _objection(row: Row, score: float, references: dict[str, float]) -> str:
    """What is wrong with this score, seen from the references of the other places; "" where nothing is."""
    own, best = PLACES.index(row.place), references[RIGHT_CLEAN]
    if score > best:
        return f"earns {score:g}, more than the plain {RIGHT_CLEAN!r} ({best:g})"
    better, worse = PLACES[max(own - 1, 0) : own], PLACES[own + 1 : -1]
    if score == references[row.place] and row.completion != REFERENCES[row.place]:
        # paid like its reference, whose own row says whether that is in order; only right and wrong must still differ
        better, worse = ([p for p in places if (p in RIGHT) != (row.place in RIGHT)] for places in (better, worse))
    for place in better:
        if not score < references[place]:
            return f"earns {score:g}, not less than {place!r} ({references[place]:g})"
    for place in worse:
        if not score > references[place]:
            return f"earns {score:g}, not more than {place!r} ({references[place]:g})"
    silence = references[WORTHLESS]
    return "" if score >= silence else f"earns {score:g}, less than silence ({silence:g})"


# -------------------------------------------------------------------------------------- the check of a reward function


def check_reward(
    function: RewardFunction, completions: Sequence[Completion], columns: dict[str, Any], limit_s: float = LIMIT_S
) -> list[float]:
    """Call a reward on N completions and return its N rewards, or say what is wrong with it.

    Args:
        columns: dataset columns by name, each of length N; passed as keywords, as TRL does.
        limit_s: seconds for the call. A call that takes longer is broken off, where the platform can (a main thread
            on Linux and macOS); elsewhere it is refused once it has come back.
    Raises:
        RewardProblem: it cannot be called as TRL calls it, raises, takes too long, returns anything but one finite
            number for each completion, or other numbers when it is asked again in another order.
    """
    name = named(function).__name__
    _check_signature(name, function, columns)
    backwards = slice(None, None, -1)
    try:
        with time_limit(limit_s):
            rewards = pay(function, completions, **columns)
            again = pay(function, completions[backwards], **some(columns, backwards))
    except TimeoutError:
        raise RewardProblem(
            f"{name} took more than {limit_s:g} s for {len(completions)} completions and was broken off; look for an "
            "endless loop, or a regular expression with nested repetitions such as (a+)+"
        ) from None
    for i, (first, second) in enumerate(zip(rewards, again[backwards], strict=True)):
        if abs(first - second) > 1e-9 * max(1.0, abs(first)):
            raise RewardProblem(
                f"{name} gave {first:g} at first and {second:g} when asked again in another order, for completion {i}: "
                f"{shown(completions[i])}; a reward must depend on nothing but the completion and its columns"
            )
    return rewards


def _check_signature(name: str, function: RewardFunction, columns: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise RewardProblem(f"{name} is not a Python function ({error}); write one with def") from error
    given = ", ".join({"completions": None} | columns)
    try:
        signature.bind(completions=[], **columns)
    except TypeError as error:
        raise RewardProblem(
            f"{name}{signature} cannot be called as TRL calls it ({error}). It passes {given} by name; "
            f"write def {name}(completions, gold, **kwargs), or without gold"
        ) from None
    try:
        signature.bind(completions=[], **columns | BESIDE)
    except TypeError:
        raise RewardProblem(
            f"{name}{signature} must end in **kwargs: TRL passes more than that ({', '.join(BESIDE)})"
        ) from None


# ------------------------------------------------------------------------------------------- the check of a reward file


def _log_metric(name: str, value: float) -> None:
    float(value)


_EMPTY = ("train_batch_size", "best_metric", "best_global_step", "best_model_checkpoint", "trial_name", "trial_params")
_STATE = SimpleNamespace(  # transformers' TrainerState before the first step, without the seconds that its import takes
    **dict.fromkeys(_EMPTY),
    **dict(epoch=0.0, global_step=0, max_steps=100, num_train_epochs=1, num_input_tokens_seen=0, total_flos=0),
    **dict(logging_steps=1, eval_steps=500, save_steps=25, log_history=[], stateful_callbacks={}),
    **dict(is_local_process_zero=True, is_world_process_zero=True, is_hyper_param_search=False),
)
BESIDE = {  # what a training passes beside the dataset's columns; all but `truncated` comes from TRL
    "truncated": [],
    "completion_ids": [],
    "trainer_state": _STATE,
    "log_extra": lambda column, values: None,
    "log_metric": _log_metric,
}


def with_rows(bank: Bank) -> tuple[list[str], dict[str, list[Any]]]:
    """The completions of a bank and of the bench, with the columns that belong to them."""
    rows = columns([QUESTION] * len(ROWS), [row.gold for row in ROWS])
    texts = bank.completions + [row.completion for row in ROWS]
    return texts, {name: values + rows[name] for name, values in bank.columns.items()}


def check_rewards(path: str | Path, tell: Callable[[str], None] = lambda name: None) -> dict[RewardFunction, float]:
    """`load_rewards`, and each function tried as TRL will call it: on messages, with everything that TRL passes.

    Args:
        tell: called with the name of each function before it is tried.
    Raises:
        ValueError, ImportError: the file does not load, or one of its functions is no reward.
    """
    rewards = load_rewards(path)
    bank = load_bank()
    texts, beside = with_rows(Bank(bank.groups[:: len(bank.groups) // TRIED_GROUPS]))
    messages = [[{"role": "assistant", "content": text}] for text in texts]
    ids = [list(text.encode()) for text in texts]
    beside |= BESIDE | {"completion_ids": ids, "truncated": beside["truncated"]}
    for function in rewards:
        tell(function.__name__)
        raised, found = None, f"{function.__name__} pays all {len(messages)} completions the same"
        try:
            suspect = len(set(check_reward(function, messages, beside))) == 1
        except RewardProblem as problem:
            raised, found, suspect = problem, str(problem), problem.__cause__ is not None
        if suspect:
            tell(function.__name__)
            if _reads_text(function, texts, beside):
                raise RewardProblem(
                    f"{path}: {found}; it reads texts, but TRL passes each completion as a list of messages: write "
                    "@on_text above it, from utils.rewards.functions import on_text"
                ) from raised
        if raised:
            raise RewardProblem(f"{path}: {found}") from raised
    return rewards


def _reads_text(function: RewardFunction, texts: list[str], beside: dict[str, Any]) -> bool:
    """Whether a reward tells plain texts apart."""
    try:
        return len(set(check_reward(function, texts, beside))) > 1
    except RewardProblem:
        return False


def tried_rewards(path: str | Path) -> dict[RewardFunction, float]:
    """`load_rewards`, once `check_rewards` has passed in a process of its own.

    There it can be ended whatever holds it: a loop in compiled code hears no alarm, and `os._exit` asks nobody.

    Raises:
        ValueError, ImportError: as `check_rewards`.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    trial = context.Process(target=_try, args=(path, theirs))
    trial.start()
    theirs.close()
    doing, limit_s, found = "loading it", LOAD_LIMIT_S, "hangs; look for a loop without end"
    try:
        while ours.poll(limit_s + GRACE_S):
            said = ours.recv()
            if said is None:
                return load_rewards(path)
            if isinstance(said, Exception):
                raise said
            doing, limit_s = said, LIMIT_S
    except EOFError:
        found = "ends the whole process; take out what exits"
    finally:
        trial.kill()
        trial.join()
    raise RewardProblem(f"{path}: {doing} {found}")


def _try(path: str | Path, pipe: Any) -> None:
    try:
        check_rewards(path, pipe.send)
        pipe.send(None)
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # without a traceback beside the other process's words
    except Exception as error:
        error.add_note(traceback.format_exc())
        pipe.send(error)
