"""Guesses the language of a text by its script and its commonest small words: enough to see what a dataset is made of."""

from __future__ import annotations

import re
from collections import Counter

# Scripts that settle the matter, and the code of the language that mostly uses them.
_SCRIPTS = (
    ("ja", re.compile(r"[\u3040-\u30ff]")),
    ("ko", re.compile(r"[\uac00-\ud7af]")),
    ("zh", re.compile(r"[\u4e00-\u9fff\u3400-\u4dbf]")),
    ("ru", re.compile(r"[\u0400-\u04ff]")),
    ("ar", re.compile(r"[\u0600-\u06ff]")),
    ("hi", re.compile(r"[\u0900-\u097f]")),
    ("el", re.compile(r"[\u0370-\u03ff]")),
    ("he", re.compile(r"[\u0590-\u05ff]")),
    ("th", re.compile(r"[\u0e00-\u0e7f]")),
)
_WORDS = {
    "en": "the of and to in is that it for was with as are be this on not have from by what how you",
    "de": "der die und das ist nicht ein eine zu den mit von sich auf für dem wie was ich auch es an",
    "fr": "le la les des et est une dans que pour qui pas sur avec ce au du il je vous plus sont",
    "es": "el los las una que es por con para del se su como lo más pero está son qué cuál y",
    "it": "il che di una per non con sono del della gli è più anche come nel questo cosa ha",
    "pt": "o os um uma que não para com por mais como da do dos das em é são você seu qual",
    "nl": "de het een van en is dat niet te op zijn voor met ook aan er maar wat hoe je",
}
_INDEX: dict[str, list[str]] = {}
for _language, _words in _WORDS.items():
    for _word in _words.split():
        _INDEX.setdefault(_word, []).append(_language)
_TOKEN = re.compile(r"[^\W\d_]+")
_LENGTH = 1000


def language_of(text: str) -> str:
    """An ISO 639-1 code, or `und` where the text does not say: code, numbers, names."""
    head = text[:_LENGTH]
    letters = sum(map(str.isalpha, head))
    if not letters:
        return "und"
    if not head.isascii():
        for language, script in _SCRIPTS:
            if len(script.findall(head)) * 5 >= letters:
                return language
    votes: Counter[str] = Counter()
    words = _TOKEN.findall(head.lower())
    for word in words:
        for language in _INDEX.get(word, ()):
            votes[language] += 1
    best = votes.most_common(1)
    return best[0][0] if best and best[0][1] * 12 >= len(words) else "und"
