"""Text in an encoding that nobody named: every candidate is tried, and the one that reads as words is kept.

A reading is judged by its letters beyond ASCII: kana, kanji and hanzi that are in use, accented letters and quotation
marks where Western words have them. Where no reading is sure the answer is None, for a guess would be words that nobody
wrote. Levels are those of JIS X 0208 and GB 2312, whose first ones hold the characters in daily use. Files of Unicode
without a mark are told apart by their order of bytes (RFC 2781, 4.3, names the problem). Knows no file and no format.
"""

from __future__ import annotations

import codecs
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

CANDIDATES = ("utf-8", "utf-16-le", "utf-16-be", "cp932", "cp1252", "gbk")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
SURE = 0.55  # a reading below is none
AHEAD = 0.2  # what the best one has to have before the next
_COMMON = frozenset(  # hanzi of everyday Chinese, and those of tags: of any others GBK makes what was written elsewhere
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多"
    "经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性"
    "知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次"
    "度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建"
    "务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路"
    "记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运笔片黑红蓝绿紫粉棕橙灰青黄银金色发短头裙衣"
    "裤帽鞋袜手套眼镜耳朵尾巴猫狗狐兔龙鱼鸟花草树木叶林云雨雪风星夜晚晨昏阳月亮河湖城街房室窗床椅桌笑哭怒喜悲惊害羞微笑脸嘴唇"
    "牙舌鼻眉毛额颈肩胸腰腹背臂腿脚足指甲丝带蝴蝶结领连校服泳装和袍甲胄剑刀枪弓盾杖翼翅膀角光环皇冠女孩男孩少女少年姐妹兄弟母父"
    "亲单人双全身半坐站躺跑跳飞游看向观众背景简单白天室内外杰作高质量细节插画动漫风格彩虹透明卷直长马尾辫刘海丸子瞳异色大小可爱"
    "美丽帅漂亮温柔春夏秋冬水手式毛衣外套围巾伞书包杯茶咖啡蛋糕糖苹果草莓樱桃西瓜玫瑰向日葵火冰雷电石土沙滩浪船车飞机武器魔法师"
    "仙精灵天使恶魔鬼妖怪机器战士骑士公主王子女王护士医生老歌手舞者厨侦探学院古现代未来幻想奇科字笔画照片图像世界梦心爱情友"
)
# Letters of Western Europe that stand as words, and those that hardly any word of it has (CP1252, not 1254 or 1250).
_ALONE = frozenset("àáâèéêìíòóôùúäöåøæÀÁÂÈÉÊÌÍÒÓÔÙÚÄÖÅØÆ")
_RARE = frozenset("ðþýÐÞÝšžŠŽŸœ")
_QUOTES = {"„": "“”", "‚": "‘’", "«": "»", "‹": "›"}
_DASHES = "–—"
_SIGNS = "°²³½¼¾×µ€£¥™®©"
_USED = re.compile(
    "[\u0900-\u0eff\u1e00-\u1eff\u2010-\u27bf\u3000-\u30ff\u3400-\u9fff\uac00-\ud7a3\uff00-\uffef\U0001f000-\U0010ffff]"
)
_ODD = re.compile(r"[\[\]\\^`{}|~=<>;@#$%&*?!+]|\r(?!\n)|[a-z\d][A-Z]|[A-Z]\d")  # in ASCII that may be ideographs
_MOJIBAKE = re.compile(
    "[ÂÃâäåæçèéðïœŒÄÅÈÉÊ][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u2122]"
)


def decode(
    data: bytes, fits: Callable[[str], bool] | None = None, candidates: Sequence[str] = CANDIDATES
) -> str | None:
    """`data` as text, without a mark; None where no encoding reads as words, or more than one does.

    `fits`: says of a reading that it is what is expected there (settings of a picture, JSON); where any of the
    `candidates` gives such a one, only those count. Never raises.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            text = _read(data[len(mark) :], encoding)
            return None if text is None or _lost(text, ("Cc", "Cs")) else _repaired(text.lstrip("\ufeff"))
    if data.isascii() and b"\0" not in data:
        text = data.decode("ascii")
        return None if _lost(text) or (_ODD.search(text) and _is_wide(data)) else text
    if _plainly_utf8(data) and (fits is None or fits(data.decode("utf-8", "replace"))):
        return _repaired(data.decode("utf-8"))
    if "\ufffd".encode() in data:  # somebody else has lost the words already
        return None
    # A mark-less UTF-16 is told by the zeros of its Latin letters, and nothing else has any.
    tried = [name for name in candidates if name.startswith("utf-16") == (b"\0" in data.rstrip(b"\0"))]
    readings = [(encoding, text) for encoding in tried if (text := _read(data, encoding)) and not _lost(text)]
    if fits is not None and (fitting := [pair for pair in readings if fits(pair[1])]):
        readings = fitting
    rated = sorted(((_rating(text, encoding), text) for encoding, text in readings), reverse=True)
    if not rated or rated[0][0] < SURE:
        return None
    near = {text for rating, text in rated if rated[0][0] - rating < AHEAD}
    if len(near) > 1 or (tried[0] == "utf-8" and not _valid_utf8(data) and _is_wide(data)):
        return None
    return _repaired(rated[0][1])


def decode_together(parts: Iterable[bytes], candidates: Sequence[str] = CANDIDATES) -> list[str] | None:
    """Several texts of one encoding, such as the names in one archive; None where it isn't sure."""
    parts = list(parts)
    text = decode(b"\n".join(parts), candidates=candidates)
    lines = [] if text is None else text.split("\n")
    return lines if len(lines) == len(parts) else None


def _valid_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _is_wide(data: bytes) -> bool:
    """Whether every two bytes are a character in daily use, as in UTF-16 without one Latin letter."""
    readings = [_read(data, encoding) for encoding in ("utf-16-le", "utf-16-be") if len(data) % 2 == 0]
    return any(text and all(_daily(letter) for letter in text) for text in readings)


def _daily(letter: str) -> bool:
    code = int.from_bytes(letter.encode("cp932", "replace"), "big")
    known = 0x889F <= code <= 0xEAA4 or letter.encode("gb2312", "replace") != b"?"
    return _cjk_mark(letter) or "\u3041" <= letter <= "\u30fc" or ("\u4e00" <= letter <= "\u9fff" and known)


def _read(data: bytes, encoding: str) -> str | None:
    if encoding.startswith("utf-16") and data.endswith(b"\0") and len(data) % 2:
        data = data[:-1]  # the end of a C string
    try:
        return data.decode(encoding).rstrip("\0")
    except UnicodeDecodeError:
        return None


def _lost(text: str, kinds: tuple[str, ...] = ("Cc", "Cs", "Co", "Cn")) -> bool:
    """Whether there is anything in it that no text has: controls, replaced, private and unassigned characters."""
    return any(
        letter == "\ufffd" or unicodedata.category(letter) in kinds for letter in set(text) if letter not in "\t\n\r"
    )


def _plainly_utf8(data: bytes) -> bool:
    """Valid, with characters of three or four bytes, or so many of two that no other encoding gives them by chance."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    beyond = [letter for letter in text if letter > "\x7f"]
    # Emoji that are newer than Python's tables are unassigned there.
    return not _lost(text, ("Cc",)) and (any(_USED.match(letter) for letter in beyond) or len(beyond) > 8)


def _repaired(text: str) -> str:
    """UTF-8 that was once read as CP1252 and saved again ("â€™") as it was meant."""
    if not _MOJIBAKE.search(text):
        return text
    try:
        data = b"".join(_byte(letter) for letter in text)
        again = data.decode("utf-8")
    except UnicodeError:
        return text
    return text if _lost(again) else again


def _byte(letter: str) -> bytes:
    return letter.encode("latin-1") if letter in "\x81\x8d\x8f\x90\x9d" else letter.encode("cp1252")


# --- how much a reading reads as words, 0 to 1 ----------------------------------------------------------------------


def _rating(text: str, encoding: str) -> float:
    if encoding.startswith("utf-16"):
        return sum(1.0 if letter < "\x80" else _unicode_weight(letter) for letter in text) / len(text)
    if text.isascii():
        return 1.0
    if encoding in ("cp1252", "cp850", "cp437"):
        return _western(text)
    if encoding == "utf-8":
        return 0.95 if _one_script(text) else 0.4
    weights = [weight for run in _runs(text) for weight in _run(run, encoding)]
    rating = sum(weights) / len(weights)
    if encoding == "gbk" and rating < 0.76:  # fewer than three of five in daily use
        return min(rating, SURE - 0.01)
    return rating


def _runs(text: str) -> Iterable[tuple[str, str, str]]:
    """(what stands before, letters beyond ASCII, what stands behind), for each run of them."""
    for match in re.finditer(r"[^\x00-\x7f]+", text):
        yield text[max(0, match.start() - 1) : match.start()], match[0], text[match.end() : match.end() + 1]


def _run(run: tuple[str, str, str], encoding: str) -> list[float]:
    before, letters, behind = run
    # An accented letter takes the next one for its second byte: an ideograph or two in the middle of a Western word.
    stuck = 0.3 if len(letters) <= 2 and (before.isalpha() or behind.isalpha()) else 1.0
    if encoding == "cp932" and all("\uff61" <= letter <= "\uff9f" for letter in letters):
        return [0.5 if _half_width(letters) else 0.1] * len(letters)  # as Cyrillic text looks, too
    return [_weight(letter, encoding) * stuck for letter in letters]


def _half_width(letters: str) -> bool:
    """Half-width kana as words have it: sounding marks behind k, s, t and h only, and more than one letter."""
    marks = "\uff9e\uff9f"
    pairs = list(itertools.pairwise(letters))
    return (
        bool(pairs) and letters[0] not in marks and all(b not in marks or "\uff76" <= a <= "\uff8e" for a, b in pairs)
    )


def _weight(letter: str, encoding: str) -> float:
    """Of a letter beyond ASCII in CP932 or GBK."""
    if "\u3040" <= letter <= "\u30ff":
        return 0.2 if encoding == "gbk" else 1.0  # GB 2312 has kana where EUC-JP does
    if _cjk_mark(letter):
        return 0.9
    if encoding == "cp932":
        code = int.from_bytes(letter.encode("cp932", "replace"), "big")
        if 0x889F <= code <= 0x9872:
            return 0.85
        return 0.6 if 0x989F <= code <= 0xEAA4 else 0.3
    lead, *trail = letter.encode("gbk", "replace")
    if letter in _COMMON:
        return 1.0
    return 0.4 if 0xB0 <= lead <= 0xD7 and trail and trail[0] >= 0xA1 else 0.05


def _cjk_mark(letter: str) -> bool:
    return "\u3000" <= letter <= "\u303f" or "\uff01" <= letter <= "\uff5e" or letter in "…—–‘’“”·×○●★☆♪♥→←"


def _unicode_weight(letter: str) -> float:
    """Of UTF-16 in one of its orders: the wrong one turns Latin letters into rare ideographs and unused scripts."""
    if _cjk_mark(letter) or "\u3040" <= letter <= "\u30ff" or (letter.isalpha() and letter < "\u0250"):
        return 0.9
    if "\u4e00" <= letter <= "\u9fff":
        japanese = int.from_bytes(letter.encode("cp932", "replace"), "big")
        daily = 0x889F <= japanese <= 0xEAA4 or letter.encode("gb2312", "replace") != b"?"
        return (0.9 if daily else 0.5) if ord(letter) & 0xFF else 0.1
    if letter > "\uffff" or "\u0370" <= letter <= "\u052f" or "\uac00" <= letter <= "\ud7a3" or letter in "€™„‚‹›•":
        return 0.9
    return 0.7 if "\u0590" <= letter <= "\u0eff" or "\u2600" <= letter <= "\u27bf" or letter < "\u0100" else 0.1


def _one_script(text: str) -> bool:
    """Whether what UTF-8 gives in characters of two bytes is words of one alphabet, in small letters for the most."""
    names = {unicodedata.name(letter, "?").split()[0] for letter in text if letter > "\x7f" and letter.isalpha()}
    words = [word for word in re.findall(r"[^\W\d_]+", text) if not word.isascii()]
    if re.search("[\u0305\u030d-\u0322\u0329-\u036f]", text):  # accents that no language in use has
        return False
    if len(names) > 1 or any(word[1:].lower() != word[1:] and not word.isupper() for word in words):
        return False
    if not names <= {"LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "HEBREW", "ARABIC"}:
        return False
    return names != {"LATIN"} or all(len(word) > 1 or word in _ALONE for word in words)


def _western(text: str) -> float:
    """CP1252: accented letters in words of Latin ones, quotation marks around words, dashes between them."""
    if any(not word.isascii() and not _word(word) for word in re.findall(r"[^\W\d_]+", text)):
        return 0.2
    padded = f" {text} "
    for index, mark in enumerate(padded):
        if mark > "\x7f" and not _mark(padded[:index], mark, padded[index + 1 :]):
            return 0.2
    plain = sum(letter.isalpha() and letter < "\x80" for letter in text)
    return 0.95 if plain >= 2 * sum(letter > "\x7f" for letter in text) else 0.5


def _word(word: str) -> bool:
    """Whether its accented letters stand as in a language of Western Europe."""
    beyond = [letter for letter in word if letter > "\x7f"]
    if any(letter in _RARE or letter > "\u00ff" for letter in beyond):
        return False
    if len(word) == 1:
        return word in _ALONE
    if len(beyond) > len(word) - len(beyond) + 1 or re.search(r"[^\x00-\x7f]{3}", word):
        return False
    return word[1:].lower() == word[1:] or word.isupper()


def _mark(before: str, mark: str, behind: str) -> bool:
    """Whether a character of CP1252 stands where one does: quotes beside words, dashes between, signs at numbers."""
    last, then = before[-1], behind[0]
    begins = last.isspace() or last in "([{\"',-/:;"
    if mark.isalpha():
        return not last.isdigit() and not then.isdigit()
    if mark in _QUOTES:
        return begins and then.isalnum() and any(close in behind for close in _QUOTES[mark])
    if mark in "‘’“”»›":
        return last.isalnum() or then.isalnum() or (last in ".,!?\"'…)" and not then.isalnum())
    if mark in _DASHES:
        spaced = last.isspace() and then.isspace() and before.strip() != "" and behind.strip() != ""
        words = mark == "—" and re.search(r"[A-Za-z]{3}$", before) and re.match(r"[A-Za-z]{3}", behind)
        return spaced or bool(words) or (last.isdigit() and then.isdigit())
    if mark in "…•\xa0":
        return mark != "…" or last.isalnum() or then.isalnum()
    if mark in "¡¿":
        return begins and then.isalpha() and ("!" if mark == "¡" else "?") in behind
    return mark in _SIGNS and (last.isdigit() or then.isdigit() or (mark in "™®©" and last.isalnum()))
