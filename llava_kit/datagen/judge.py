"""Whether an answer may be learnt from: it speaks as one who sees, says something, says it once, and gives no prompt away."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache

from ..core.annotations import Annotations
from ..core.teacher import ResponseType, TeacherAnswer
from ..recipe.generate import Judging
from .parse import Rejected, Turns
from .prompt_set import PromptSet

# What a model says that did not do what it was asked.
_REFUSALS = re.compile(
    r"\bas an? (ai|artificial intelligence|large language model|language model|text-based)\b"
    r"|\bi(?:'m| am) (?:just )?an? (?:ai|language model|text-based)\b"
    r"|\bi (?:can ?not|can't|could not|couldn't|do not|don't) (?:actually |directly )?"
    r"(?:see|view|access|look at|process|have access to|have the ability to see) (?:the |this |that |any |an )?"
    r"(?:image|picture|photo)"
    r"|\bi (?:can ?not|can't) (?:actually |directly )?see\b"
    r"|\bi(?:'m| am) (?:unable|not able) to\b|\b(?:i'm|i am) sorry\b|\bsorry, (?:but )?i\b"
    r"|\bno (?:image|picture|photo) (?:was|is|has been) (?:provided|given|attached)\b|\bi (?:can ?not|can't) assist\b",
    re.IGNORECASE,
)
# What speaks of the prompt rather than of the picture; `box` and `caption` are judged apart, since there are boxes of fruit.
_TOLD = re.compile(
    r"\bbounding[ -]?box(?:es)?\b|\bcoordinates?\b"
    r"|\bthe (?:provided |given |above )?descriptions?\b"
    r"|\b(?:provided|given) (?:sentences?|information|text|list|context|annotations?)\b"
    r"|\b(?:the )?(?:sentences?|list) (?:above|below|says?|states?|mentions?|describes?|provided|given)\b"
    r"|\[\s*[01]?\.\d+\s*(?:,\s*[01]?\.\d+\s*){1,3}\]",
    re.IGNORECASE,
)
_WORDS_OF_THE_PROMPT = {"caption": re.compile(r"\bcaption(?:s|ed|ing)?\b", re.I), "box": re.compile(r"\bbox(?:es)?\b", re.I)}
# Marks of prompts: a model that learns to write them ends or breaks its turn.
_MARKS = re.compile(
    r"<image>|</?s>|<\|[^|>\n]{1,40}\|>|\[/?INST\]|<<SYS>>|</?think(?:ing)?>|^(?:USER|ASSISTANT|SYSTEM):", re.MULTILINE
)
_WORD = re.compile(r"\w+(?:'\w+)?")

_LOST = "\N{REPLACEMENT CHARACTER}"
_NO_TEXT = ("Cc", "Cs", "Co", "Cn")  # control characters, halves of letters, letters of nobody

LEAK_WORDS = 12  # so many words in a row of the prompts are no chance: English text repeats five or six
LOOP_WORDS, LOOP_TIMES = 8, 4  # the same eight words four times within one answer
REVEAL_WORDS = 4
FOREIGN_SHARE = 0.2  # letters of scripts that neither prompts nor captions use


class Judge:
    """Takes answers that have been parsed, or says why not. It remembers nothing: duplicates are for who writes them down."""

    def __init__(self, options: Judging, prompts: PromptSet):
        self.options = options
        texts = [text for prompt in prompts.types.values() for text in prompt.texts()]
        self._leaks = {run for text in texts for run in runs(text, LEAK_WORDS)}
        self._scripts = {script for text in texts for script in _scripts(text)}

    def check(self, turns: Turns, answer: TeacherAnswer, type: ResponseType, told: Annotations) -> None:
        """Nothing, if the answer is taken.

        Raises:
            Rejected: the first thing that is wrong: `cut_off`, `refusal`, `mentions_source`, `marks`, `too_short`, `too_long`,
                `too_few_turns`, `repetition`, `junk`, `leaked_prompt`, `reveals`.
        """
        text = "\n".join(part for turn in turns for part in turn)
        _check_end(answer)
        self._check_not_too_long(text)  # first: all else would take a second for each 10 MB
        _check_words(text, told)
        self._check_lengths(turns, type)
        self._check_repetition(turns)
        self._check_junk(text, told)
        if any(run in self._leaks for run in runs(text, LEAK_WORDS)):
            raise Rejected("leaked_prompt", f"{LEAK_WORDS} words in a row are from the prompt or its examples")
        if type == "reasoning" and self.options.reveals:
            _check_reveals(turns[0][0], told)

    def _check_not_too_long(self, text: str) -> None:
        said = len(text.split())
        if said > self.options.max_words:
            raise Rejected("too_long", f"it has {said} words; expected at most {self.options.max_words}")

    def _check_lengths(self, turns: Turns, type: ResponseType) -> None:
        words = sum(len(answer.split()) for _, answer in turns)
        if words < self.options.min_words[type]:
            raise Rejected("too_short", f"the answer has {words} words; expected at least {self.options.min_words[type]}")
        if type == "conversation" and len(turns) < self.options.min_turns:
            raise Rejected("too_few_turns", f"found {len(turns)} questions; expected at least {self.options.min_turns}")

    def _check_repetition(self, turns: Turns) -> None:
        questions = [normalised(question) for question, _ in turns if question]
        if len(set(questions)) < len(questions):
            raise Rejected("repetition", "the same question is asked twice")
        for _, answer in turns:
            counts = Counter(runs(answer, LOOP_WORDS))
            if counts and counts.most_common(1)[0][1] >= LOOP_TIMES:
                raise Rejected(
                    "repetition", f"the same {LOOP_WORDS} words stand {counts.most_common(1)[0][1]} times in one answer"
                )

    def _check_junk(self, text: str, told: Annotations) -> None:
        letters = Counter(text)
        if any(letter not in "\n\t" and (letter == _LOST or unicodedata.category(letter) in _NO_TEXT) for letter in letters):
            raise Rejected("junk", "it holds control characters, or letters that were lost")
        known = self._scripts.union(*map(_scripts, told.captions))
        counts = {letter: number for letter, number in letters.items() if letter.isalpha()}
        foreign = sum(number for letter, number in counts.items() if _script(letter) not in known)
        total = sum(counts.values())
        if foreign > FOREIGN_SHARE * total or not total:
            raise Rejected("junk", f"{foreign} of {total} letters are of a script that no prompt and no caption uses")


def fingerprint(turns: Turns) -> bytes:
    """16 bytes that are equal for texts which differ in case, spaces and punctuation alone."""
    return hashlib.blake2b(normalised(" ".join(part for turn in turns for part in turn)).encode(), digest_size=16).digest()


def normalised(text: str) -> str:
    """The words alone, in small letters."""
    return " ".join(_words(text))


def runs(text: str, length: int) -> Iterator[str]:
    """Every `length` words in a row."""
    words = _words(text)
    return (" ".join(words[start : start + length]) for start in range(len(words) - length + 1))


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _check_end(answer: TeacherAnswer) -> None:
    if answer.finish == "length":
        raise Rejected("cut_off", "the answer came to the end of max_tokens before its own")
    if answer.finish == "content_filter":
        raise Rejected("refusal", "the endpoint's filter ended the answer")


def _check_words(text: str, told: Annotations) -> None:
    if found := _REFUSALS.search(text):
        raise Rejected("refusal", f"it says {found[0]!r}")
    if found := _TOLD.search(text):
        raise Rejected("mentions_source", f"it says {found[0]!r}")
    picture = " ".join((*told.captions, *(box.label for box in told.boxes)))
    for pattern in _WORDS_OF_THE_PROMPT.values():
        found = pattern.search(text)
        if found and not pattern.search(picture):
            raise Rejected("mentions_source", f"it says {found[0]!r}, which is in no caption of this picture")
    if found := _MARKS.search(text):
        raise Rejected("marks", f"it holds {found[0]!r}, a mark of prompts")


def _check_reveals(question: str, told: Annotations) -> None:
    captions = {run for caption in told.captions for run in runs(caption, REVEAL_WORDS)}
    if found := next((run for run in runs(question, REVEAL_WORDS) if run in captions), None):
        raise Rejected("reveals", f"the question gives away what is in the picture: {found!r}")


def _scripts(text: str) -> set[str]:
    return {_script(letter) for letter in set(text) if letter.isalpha()}


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    """LATIN, CYRILLIC, CJK, ...: the first word of a letter's name."""
    return unicodedata.name(letter, "unknown").split(" ", 1)[0]


def reasons(found: Iterable[str]) -> dict[str, int]:
    """How often each reason was given, the most frequent first."""
    return dict(sorted(Counter(found).items(), key=lambda item: (-item[1], item[0])))
