"""Languages by three letters (ISO 639-2), as tracks name them; playlists often use two (RFC 5646)."""

from __future__ import annotations

_PAIRS = """
af:afr ar:ara az:aze be:bel bg:bul bn:ben bs:bos ca:cat cs:ces cy:cym da:dan de:deu el:ell en:eng es:spa et:est
eu:eus fa:fas fi:fin fr:fra ga:gle gl:glg gu:guj he:heb hi:hin hr:hrv hu:hun hy:hye id:ind is:isl it:ita ja:jpn
ka:kat kk:kaz kn:kan ko:kor ku:kur lb:ltz lt:lit lv:lav mk:mkd ml:mal mn:mon mr:mar ms:msa mt:mlt nb:nob nl:nld
nn:nno no:nor pa:pan pl:pol ps:pus pt:por ro:ron ru:rus sk:slk sl:slv so:som sq:sqi sr:srp sv:swe sw:swa ta:tam
te:tel th:tha tl:tgl tr:tur uk:ukr ur:urd uz:uzb vi:vie yi:yid zh:zho zu:zul
"""
_THREE_LETTERS = dict(pair.split(":") for pair in _PAIRS.split())
_BIBLIOGRAPHIC = """
alb:sqi arm:hye baq:eus bur:mya chi:zho cze:ces dut:nld fre:fra geo:kat ger:deu gre:ell ice:isl mac:mkd mao:mri
may:msa per:fas rum:ron slo:slk tib:bod wel:cym
"""  # ISO 639-2 has two codes for these: DVB streams use the one (EN 300 468, 6.2), the other, or both
_TERMINOLOGIC = dict(pair.split(":") for pair in _BIBLIOGRAPHIC.split())


def three_letters(tag: str) -> str:
    """Of a language tag such as `de-AT` or `deu`; empty where it is not known."""
    language = tag.partition("-")[0].strip().lower()
    if len(language) == 3 and language.isascii() and language.isalpha():
        return language
    return _THREE_LETTERS.get(language, "")


def canonical(tag: str) -> str:
    """One name for a language, however it is written: `de`, `ger`, `DEU` and `de-AT` are `deu`."""
    language = three_letters(tag)
    return _TERMINOLOGIC.get(language, language)
