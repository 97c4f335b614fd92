"""The protocol of an evaluation: all that an answer and its mark depend on besides the model and the question's text.

Two rates differ by the training only where they were measured alike. So what was fixed is written down, hashed and
kept with the answers, and a comparison across two protocols is refused by the name of what differs.

An evaluation has a folder; a kill at any moment costs one batch at most:

    DIR/protocol.json        model, adapter and protocol; written first
    DIR/completions.jsonl    one answer a line, with a hash of it, appended batch by batch
    DIR/card.json            the rates; written last

`completions.jsonl` may also come from elsewhere: question, gold and completion are all that a line needs to be judged.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

from utils.data.answers import RULES
from utils.data.questions import Question, to_question
from utils.data.rows import check_format, check_text, number_text, parse_row
from utils.files import append_jsonl, differences, json_object, portable, sha256, write_bytes, write_json, write_jsonl
from utils.model.policy import Policy, Sample, render_prompt
from utils.model.profiles import is_local
from utils.model.weights import ADAPTER_FILES

PROTOCOL, ANSWERS, CARD = "protocol.json", "completions.jsonl", "card.json"
UNKNOWN = dict.fromkeys(("model", "weights", "adapter", "adapter_weights", "questions", "protocol_hash", "protocol"))
REMOVE = "remove that line, and evaluating again will ask its question anew"
HASHED = ("question", "gold", "completion", "tokens", "truncated")  # of a line, in its `answer_sha256`
MOST = 2**53  # of any number in a line: from here on a float no longer holds every integer


@dataclass(frozen=True)
class Protocol:
    """How an evaluation was made; the model and its adapter are not part of it, they are what is compared.

    Attributes:
        template: SHA-256 of the prompt as rendered around an empty question.
        engine: what generated, an entry of `utils.model.policy.ENGINES`.
        quantisation: "none", or e.g. "4-bit nf4".
        decoding: "greedy", or e.g. "sampled at temperature 1".
        token_cap: most tokens of a completion.
        rules: version of the rules that read an answer (`utils.data.answers.RULES`).
        dataset: name of the questions, e.g. "tiny test" or "mine.jsonl".
        revision: SHA-256 of the questions and their golds, in order.
        seed: of the sampling; None for greedy decoding, which draws nothing.
    """

    system_prompt: str
    template: str
    engine: str
    dtype: str
    quantisation: str
    decoding: str
    token_cap: int
    rules: str
    dataset: str
    revision: str
    seed: int | None

    @cached_property
    def hash(self) -> str:
        """The first 12 digits of a SHA-256 over all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    @classmethod
    def from_dict(cls, values: Any) -> Protocol:
        """The protocol that `dataclasses.asdict` wrote.

        Raises:
            ValueError: a field is missing, unknown or of another type.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or names != values.keys():
            wrong = sorted(names ^ values.keys()) if isinstance(values, dict) else [repr(values)[:80]]
            raise ValueError(f"a protocol has the fields {', '.join(sorted(names))}; missing or unknown: {wrong}")
        for name, kind in get_type_hints(cls).items():
            if not isinstance(values[name], kind) or isinstance(values[name], bool):
                kind = getattr(kind, "__name__", kind)
                raise ValueError(f"{name} of a protocol must be {kind}, got {str(values[name])[:80]!r}")
        return cls(**values)


def protocol_of(
    policy: Policy, questions: Sequence[Question], decoding: str = "greedy", seed: int | None = None
) -> Protocol:
    """The protocol under which `policy` answers these questions now."""
    return Protocol(
        system_prompt=policy.profile.system_prompt,
        template=hashlib.sha256(render_prompt(policy, "").encode()).hexdigest(),
        engine=policy.engine,
        dtype=policy.profile.dtype,
        quantisation=quantisation(policy.model),
        decoding=decoding,
        token_cap=policy.profile.max_completion_tokens,
        rules=RULES,
        dataset=dataset_name(questions),
        revision=revision(questions),
        seed=seed,
    )


def quantisation(model: Any) -> str:
    """How a model's weights are stored, read from its configuration, e.g. "4-bit nf4"; "none" where they are whole."""
    settings = getattr(model.config, "quantization_config", None)
    if settings is None:
        return "none"
    settings = settings if isinstance(settings, dict) else settings.to_dict()
    if settings.get("load_in_4bit"):
        return f"4-bit {settings.get('bnb_4bit_quant_type')}"
    return "8-bit" if settings.get("load_in_8bit") else str(settings.get("quant_method"))


def dataset_name(questions: Sequence[Question]) -> str:
    """Where questions come from, by their rows' `source`: a split, or a file's name without its folder."""
    sources = [re.sub(r" (row|line) \d+$", "", str(q.row.get("source", "questions"))) for q in questions]
    return " + ".join(dict.fromkeys(sources))


def revision(questions: Sequence[Question]) -> str:
    """SHA-256 of questions and golds in their order: another file of the same name has another one."""
    return hashlib.sha256(json.dumps([[q.question, q.gold] for q in questions]).encode()).hexdigest()


def require_same(a: Protocol, b: Protocol, names: tuple[str, str] = ("base", "trained")) -> None:
    """Refuse to compare what was measured differently.

    Raises:
        ValueError: another hash; names every differing field, both values and the mend.
    """
    if a.hash != b.hash:
        differ = differences(asdict(a), asdict(b), names)
        mend = "evaluate both on the same questions, with one profile and one version of this project (run.py evaluate)"
        if [line.split()[0] for line in differ] == ["rules"]:
            mend = "judge the stored answers of both by the present rules: run.py score DIR"
        raise ValueError(
            f"the two were not measured alike, so their difference would not be the training's: {'; '.join(differ)}. "
            f"Mend: {mend}"
        )


# ---------------------------------------------------------------------------------------------------------- the folder


@dataclass(frozen=True)
class Answer:
    """A line of completions.jsonl; what a line from elsewhere leaves out is None.

    Attributes:
        line: its number in the file, from 1.
        index: place of the question among those asked, from 0.
        seconds: its share of the time its batch took.
        protocol: hash of the protocol it was given under.
        hashed: whether the line has a hash of its answer.
    """

    line: int
    question: Question
    sample: Sample
    index: int | None = None
    seconds: float | None = None
    protocol: str | None = None
    hashed: bool = False


def header_of(
    policy: Policy,
    questions: Sequence[Question],
    decoding: str = "greedy",
    seed: int | None = None,
    too_long: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of protocol.json: who answers, and how.

    Args:
        too_long: record of those that are not asked beside `questions`, see `utils.model.policy.fitting`.
    """
    model, protocol = policy.profile.model, protocol_of(policy, questions, decoding, seed)
    return {
        **({"too_long": too_long} if too_long else {}),
        "model": local_name(model) if is_local(model) else model,
        "weights": _digest(Path(model)) if is_local(model) else getattr(policy.model.config, "_commit_hash", None),
        "adapter": local_name(policy.adapter) if policy.adapter else None,
        "adapter_weights": _digest(policy.adapter) if policy.adapter else None,
        "questions": len(questions),
        "protocol_hash": protocol.hash,
        "protocol": asdict(protocol),
    }


def local_name(place: str | Path) -> str:
    """A folder or file as other machines may read it: within the project, else its last two names."""
    path = Path(place).absolute()
    name = portable(str(path))
    return "/".join(path.parts[-2:]) if Path(name).is_absolute() else name


def _digest(folder: Path) -> str:
    """One hash for the weights in a folder and their configuration; that of a file, which holds both, is its own."""
    if folder.is_file():
        return sha256(folder)
    files = sorted(f for f in folder.iterdir() if f.name.endswith((".safetensors", "config.json")))
    return hashlib.sha256("".join(f"{f.name} {_hash_of(f)}\n" for f in files).encode()).hexdigest()


def _hash_of(file: Path) -> str:
    """That of a file's content, in which an adapter names its base as other machines may read it: where the base lies
    does not make it another adapter."""
    if file.name != ADAPTER_FILES[0]:
        return sha256(file)
    content = file.read_bytes()
    base = json_object(content).get("base_model_name_or_path")
    if base and is_local(base):
        told = [json.dumps(name, ensure_ascii=False).encode() for name in (base, local_name(base))]
        content = content.replace(*told)
    return hashlib.sha256(content).hexdigest()


def read_header(folder: Path) -> dict[str, Any]:
    """protocol.json of a folder; all None where there is none, as with completions from elsewhere.

    Raises:
        ValueError: it is damaged, or another program's.
    """
    path = folder / PROTOCOL
    if not path.exists():
        return dict(UNKNOWN)
    try:
        header = json_object(path.read_bytes())
        if wrong := UNKNOWN.keys() ^ (header.keys() - {"too_long"}):
            raise ValueError(f"it has {', '.join(UNKNOWN)}; missing or unknown: {', '.join(sorted(wrong))}"[:400])
        if "too_long" in header:
            _check_too_long(header["too_long"])
        if type(header["questions"]) is not int or header["questions"] < 0:
            raise ValueError(f"questions must be a number of them, got {str(header['questions'])[:80]!r}")
        for name in ("model", "weights", "adapter", "adapter_weights"):
            if not isinstance(header[name], str | None):
                raise ValueError(f"{name} must be a text, got {str(header[name])[:80]!r}")
        header["protocol_hash"] = Protocol.from_dict(header["protocol"]).hash
        json.dumps(header, ensure_ascii=False).encode()  # half a character cannot be written again
    except ValueError as error:
        raise ValueError(f"{path} is damaged, or not of an evaluation ({error}); name another folder") from error
    return header


def _check_too_long(record: Any) -> None:
    kinds = {"source": str | None, "id": str, "tokens": int}
    try:
        rows = [type(record["budget"]) is int, len(record["questions"]) > 0]
        rows += [isinstance(row[name], kind) for row in record["questions"] for name, kind in kinds.items()]
    except (TypeError, KeyError):
        rows = [False]
    if not all(rows):
        raise ValueError(f"too_long must name a budget and the source, id and tokens of each, got {str(record)[:80]}")


def _require_same_evaluation(folder: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    protocols = Protocol.from_dict(there["protocol"]), Protocol.from_dict(here["protocol"])
    now = "this call"
    differ = [
        f"{name} is {_shown(there, name, digest)} in {folder} and {_shown(here, name, digest)} in {now}"
        for name, digest in (("model", "weights"), ("adapter", "adapter_weights"))
        if there[digest] != here[digest] or (name == "model" and not here[digest] and there[name] != here[name])
    ] + differences(*map(asdict, protocols), (str(folder), now))
    if differ:
        rules_only = [line.split()[0] for line in differ] == ["rules"]
        mend = f"judge them by the present rules first: run.py score {folder}" if rules_only else "name another folder"
        raise ValueError(f"{folder} holds answers of another evaluation: {'; '.join(differ)}. Mend: {mend}")


def _shown(header: Mapping[str, Any], name: str, digest: str) -> str:
    return f"{header[name]!r} (weights {str(header[digest])[:12]})" if header[name] else "None"


def begin(
    folder: Path, header: dict[str, Any], questions: Sequence[Question], n: int = 1, together: int = 1
) -> dict[int, list[Answer]]:
    """Make the folder of an evaluation, or take it up again: {index: its n answers} of what it holds already.

    Args:
        n: answers to each question.
        together: so many questions are asked at a time; where a kill left some of them without all their answers, the
            answers of the others are cut off, too. So are second copies of an answer.
    Raises:
        ValueError: its answers are of another model, adapter, protocol or question file, or a file is damaged.
    """
    path = folder / ANSWERS
    if (packed := _there(path)) != path:
        raise ValueError(
            f"{packed} holds recorded answers, to which none are added; name another folder, or unpack a copy of this "
            f"one to go on with it: gunzip {packed.name}"
        )
    if not (folder / PROTOCOL).exists():
        if there := [name for name in (ANSWERS, CARD) if (folder / name).exists()]:
            raise ValueError(
                f"{folder} holds {' and '.join(there)} without {PROTOCOL}, so nothing says how these answers were "
                "given; name another folder"
            )
        write_json(folder / PROTOCOL, header)
    there = read_header(folder)
    _require_same_evaluation(folder, there, header)
    if there.get("too_long") != header.get("too_long"):  # the same questions, of a set with others that are not asked
        write_json(folder / PROTOCOL, header)
    if not path.exists():
        return {}
    check_format(path)
    whole, newline, cut = path.read_bytes().rpartition(b"\n")
    if cut:  # a kill in the middle of a line
        write_bytes(path, whole + newline)
    known: dict[int, list[Answer]] = {}
    for answer in own_answers(path, header["protocol_hash"], n):
        asked = questions[answer.index] if answer.index < len(questions) else None
        if not asked or (asked.question, asked.gold) != (answer.question.question, answer.question.gold):
            raise ValueError(f"{path}, line {answer.line}: not question {answer.index} of those asked; {REMOVE}")
        known.setdefault(answer.index, []).append(answer)
    cut_short = {i // together for i in range(len(questions)) if len(known.get(i, ())) < n}
    done = {i: answers for i, answers in known.items() if i // together not in cut_short}
    lines, kept = path.read_bytes().split(b"\n"), sorted(a.line for answers in done.values() for a in answers)
    if len(kept) < sum(map(bool, lines)):
        write_bytes(path, b"".join(lines[number - 1] + b"\n" for number in kept))
    return done


def append(
    folder: Path, protocol_hash: str, asked: Mapping[int, Question], new: Mapping[int, Sequence[Sample]], seconds: float
) -> None:
    """Add answers to completions.jsonl: {index: those to one question}; `seconds` is each one's share of the time."""
    rows = [
        {
            "index": i,
            "id": asked[i].id,
            "question": asked[i].question,
            "gold": asked[i].gold,
            "completion": sample.text,
            "tokens": sample.tokens,
            "truncated": sample.truncated,
            "seconds": round(seconds, 4),
            "protocol": protocol_hash,
        }
        for i, samples in new.items()
        for sample in samples
    ]
    append_jsonl(folder / ANSWERS, [row | {"answer_sha256": _answer_sha256(row)} for row in rows])


def _answer_sha256(row: Mapping[str, Any]) -> str:
    """The first 16 digits of a SHA-256 of what was asked and answered: it no longer fits a line altered later."""
    return hashlib.sha256(json.dumps([row.get(name) for name in HASHED]).encode()).hexdigest()[:16]


def own_answers(path: Path, protocol_hash: str, n: int = 1) -> list[Answer]:
    """The answers that an evaluation wrote, each of its protocol, and up to n to each place.

    Left out are the copy of an answer (two evaluations of an older version in one folder) and a last line cut short.

    Raises:
        ValueError: a line that this evaluation did not write; names file and line.
    """
    seen: dict[int, list[Answer]] = defaultdict(list)
    for a in read_answers(path, growing=True):
        if a.protocol != protocol_hash:
            raise ValueError(
                f"{path}, line {a.line}: given under protocol {a.protocol!r}, and {PROTOCOL} says {protocol_hash!r}; "
                f"{REMOVE}"
            )
        if a.index is None:
            raise ValueError(f"{path}, line {a.line}: it has no index; {REMOVE}")
        if len(seen[a.index]) < n:
            seen[a.index].append(a)
        elif _told(a) not in map(_told, seen[a.index]):
            raise ValueError(
                f"{path}, line {a.line}: index {a.index} stands in line {seen[a.index][-1].line} as well; {REMOVE}"
            )
    own = sorted((a for same in seen.values() for a in same), key=lambda a: a.line)
    for earlier, later in pairwise(own):  # an older version wrote none, and it may have begun the file
        if earlier.hashed and not later.hashed:
            raise ValueError(
                f"{path}, line {later.line}: its answer_sha256 was taken out, and the line before has one; {REMOVE}"
            )
    return own


def _told(answer: Answer) -> tuple[str, str, Sample]:
    return answer.question.question, answer.question.gold, answer.sample


def read_answers(path: Path, growing: bool = False) -> list[Answer]:
    """All lines of a completions.jsonl, or of the completions.jsonl.gz in its place, from here or from elsewhere.

    Args:
        growing: an evaluation may be writing it now: a last line that is no JSON yet is left out.
    Raises:
        FileNotFoundError: there is none.
        ValueError: a line is no answer; names file and line.
    """
    path = _there(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; an evaluation (run.py evaluate) leaves one in its folder")
    lines = _content(path).removeprefix(b"\xef\xbb\xbf").split(b"\n")  # by bytes: U+2028 is no end of a line
    if growing and not _is_json(lines[-1]):
        lines.pop()
    return [_answer(line, number, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _there(path: Path) -> Path:
    """A completions.jsonl, or the compressed one that recorded answers are kept in, in its place."""
    packed = path.with_name(f"{path.name}.gz")
    return packed if packed.is_file() and not path.is_file() else path


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        check_format(path)
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}); copy it again, whole, from where it came") from error


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _answer(line: bytes, number: int, where: str) -> Answer:
    try:
        row = parse_row(line)
    except ValueError as error:
        raise ValueError(f"{where}: not a JSON row ({error}), got {line[:80]!r}; mend or remove the line") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a row is an object with question, gold and completion, got {line[:80]!r}")
    row["gold"] = number_text(row.get("gold"))
    kinds = {"question": str, "gold": str, "completion": str}
    kinds |= {"index": int, "tokens": int, "truncated": bool, "seconds": int | float, "protocol": str}
    kinds |= {"answer_sha256": str}
    for name, kind in kinds.items():
        value = row.get(name)
        optional = value is None and name not in ("question", "gold", "completion")
        if not optional and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            kind = getattr(kind, "__name__", "number")
            raise ValueError(f"{where}: {name!r} must be {kind}, got {str(value)[:80]!r}; mend the line")
        if isinstance(value, int | float) and not 0 <= value < MOST:
            raise ValueError(f"{where}: {name!r} must be from 0 to {MOST:,}, got {str(value)[:80]}; mend the line")
    question = to_question({"question": row["question"], "answer": row["gold"]}, where)
    check_text(row["completion"], f"{where}: 'completion'")
    if row.get("answer_sha256") not in (None, _answer_sha256(row)):
        raise ValueError(
            f"{where}: it was altered after it was written, for its answer_sha256 no longer fits; {REMOVE}. To judge "
            f"altered answers on purpose, copy {', '.join(HASHED[:3])} of each line alone to a new folder"
        )
    sample = Sample(row["completion"], row.get("tokens"), row.get("truncated"))
    hashed = row.get("answer_sha256") is not None
    return Answer(number, question, sample, row.get("index"), row.get("seconds"), row.get("protocol"), hashed)


def load(folder: Path) -> tuple[dict[str, Any], list[Answer]]:
    """Header and answers of a finished evaluation, in the order of its questions; or of completions from elsewhere.

    Raises:
        FileNotFoundError: no folder, or no completions.jsonl in it.
        ValueError: it is not finished, a file is damaged, its answers were judged by other rules, or there are many to
            each question.
    """
    header, path = read_header(folder), _there(folder / ANSWERS)
    if header["protocol"] is None:
        answers = read_answers(path)
        if not answers:
            raise ValueError(f"{path} is empty; it needs a JSON row a line with question, gold and completion")
        hashes = {answer.protocol: answer.line for answer in answers}
        if len(hashes) > 1:
            (a, line_a), (b, line_b), *_ = hashes.items()
            raise ValueError(f"{path} mixes protocols: {a!r} in line {line_a}, {b!r} in line {line_b}; keep one")
        return header | {"protocol_hash": answers[0].protocol}, _in_order(answers)
    protocol = Protocol.from_dict(header["protocol"])
    if protocol.decoding != "greedy":
        raise ValueError(
            f"{folder} holds {protocol.decoding} for each question, and a card has one answer; notebook 05 reads them "
            f"with utils.evaluation.sampling.read_ballots({str(path)!r})"
        )
    if protocol.rules != RULES:
        raise ValueError(
            f"the answers in {folder} were judged by rules {protocol.rules!r}, now they are {RULES!r}; "
            f"judge them again: run.py score {folder}"
        )
    answers = _in_order(own_answers(path, protocol.hash)) if path.exists() else []
    if len(answers) != header["questions"]:
        raise ValueError(
            f"{folder} is not finished: {len(answers):,} of {header['questions']:,} questions are answered; "
            "call run.py evaluate with this --output again, it asks what is missing"
        )
    if [answer.index for answer in answers] != list(range(len(answers))):
        raise ValueError(f"{path}: its indexes are not those of {len(answers):,} questions from 0 on; {REMOVE}")
    if (found := revision([answer.question for answer in answers])) != protocol.revision:
        raise ValueError(
            f"the questions or golds in {path} were altered: revision is {found!r}, and {PROTOCOL} says "
            f"{protocol.revision!r}; to judge altered rows, copy {ANSWERS} alone to a new folder"
        )
    return header, answers


def _in_order(answers: list[Answer]) -> list[Answer]:
    by_index = all(answer.index is not None for answer in answers)
    return sorted(answers, key=lambda answer: answer.index) if by_index else answers


def pack(folder: Path, target: Path) -> None:
    """Copy the answers of `folder` to `target`, compressed, with what says how they were given."""
    write_bytes(target / f"{ANSWERS}.gz", gzip.compress((folder / ANSWERS).read_bytes(), mtime=0))
    for name in (PROTOCOL, CARD):
        if (folder / name).exists():
            write_bytes(target / name, (folder / name).read_bytes())


def unpack(source: Path, folder: Path) -> None:
    """The reverse of `pack`; the answers come last, and where they are the rest is."""
    for name in (PROTOCOL, CARD):
        if (source / name).exists():
            write_bytes(folder / name, (source / name).read_bytes())
    write_bytes(folder / ANSWERS, _content(source / f"{ANSWERS}.gz"))


def restamp(folder: Path) -> None:
    """Put stored answers under the present rules: those say how an answer is judged, not how it was given.

    Completions first: cut short in between, it is done again by the next call.
    """
    header = read_header(folder)
    if header["protocol"] is None or header["protocol"]["rules"] == RULES:
        return
    protocol = replace(Protocol.from_dict(header["protocol"]), rules=RULES)
    path, hashes = _there(folder / ANSWERS), {header["protocol_hash"], protocol.hash}
    if wrong := [answer.line for answer in read_answers(path) if answer.protocol not in hashes]:
        raise ValueError(f"{path}, line {wrong[0]}: not given under the protocol of {PROTOCOL}; {REMOVE}")
    rows = [json.loads(line) for line in _content(path).split(b"\n") if line.strip()]
    write_jsonl(folder / ANSWERS, [row | {"protocol": protocol.hash} for row in rows])
    if path != folder / ANSWERS:
        pack(folder, folder)
        (folder / ANSWERS).unlink()
    write_json(folder / PROTOCOL, header | {"protocol": asdict(protocol), "protocol_hash": protocol.hash})
