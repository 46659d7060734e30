"""What can be wrong with data, in one table: a stable code, how bad it is, what it means, and what to do.

The codes that the picture reader, the sources and the maker of examples raise as `SampleError.reason` are among them.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""error: cannot be trained on, or teaches something false. warning: probably not meant. note: worth knowing."""


class Reason(NamedTuple):
    severity: Severity
    means: str
    todo: str


_ROWS = {
    "bad_encoding": Reason("error", "the row is not UTF-8", "convert the file to UTF-8"),
    "bad_number": Reason("error", "the row holds NaN or Infinity, which JSON lacks", "write null, or leave the key out"),
    "source_failed": Reason("error", "its source has a fault of its own", "report it to the plugin's author"),
    "bad_row": Reason("error", "the row is not of the form that its format has", "mend the row by what its message says"),
    "bad_turns": Reason("error", "turns are not question, answer, question, answer", "merge, split or drop turns"),
    "answer_first": Reason("warning", "begins with an answer; it is left out", "put its question before it, or drop it"),
    "empty_question": Reason("error", "a question has neither text nor picture", "write the question, or drop its turns"),
    "empty_answer": Reason("error", "an answer is empty", "write the answer, or drop its turns"),
    "image_count": Reason("error", "pictures and places for them differ", "one <image> for each picture, each shown once"),
    "lost_picture": Reason("error", "says <image> or <video>, but has no picture", "give it its picture, or drop the mark"),
}
# Of single tools, templates and sources; a check meets them where it reads what these read.
OF_TOOLS = {
    "bad_text": Reason("error", "text that the format cannot hold", "take the letter out, or write another format"),
    "empty_caption": Reason("error", "a picture has no caption, or an empty one", "write it, or drop the row"),
    "no_caption": Reason("error", "a sample without a caption to choose", "give it captions, or leave it out"),
    "no_captions": Reason("error", "a sample without captions, which a teacher needs", "give it captions, or leave it out"),
    "long_caption": Reason("error", "a caption of more letters than --max-letters", "shorten it, or raise the limit"),
    "no_picture": Reason("error", "a sample that does not show one picture", "give it its picture, or leave it out"),
    "no_file": Reason("error", "a picture that is in no file cannot stay where it is", "leave out --pictures keep"),
    "no_regions": Reason("error", "a picture without a region that can be used", "leave it out"),
    "unknown_category": Reason("error", "an object of a category that its file does not name", "mend the categories"),
    "fetch_failed": Reason("error", "a picture could not be fetched from its address", "try again later, or drop the row"),
    "bad_template": Reason("error", "the chat template cannot write these turns", "use another template"),
    "empty_sample": Reason("error", "nothing of it is left to be laid out", "drop it"),
    "not_tokenised": Reason("error", "the tokenizer refuses its text", "mend the text, or use another tokenizer"),
    "picture_in_answer": Reason("error", "an answer shows a picture", "move the picture into the question"),
    "system_text": Reason("error", "a system text, for which the template has no place", "take it out, or another template"),
    "token_outside_vocabulary": Reason("error", "a token that the model has no row for", "use the model's own tokenizer"),
}
_PICTURES = {
    "missing_image": Reason("error", "a picture's file is not there", "fetch it, or set image_root to its folder"),
    "outside_root": Reason("error", "a picture's path leads out of image_root", "use paths under image_root, without .."),
    "url_not_allowed": Reason("error", "a picture is a URL; nothing is fetched", "data convert --allow-urls fetches it"),
    "unreadable_image": Reason("error", "a file is no picture, or its header is broken", "fetch it again: often a web page"),
    "truncated_image": Reason("error", "a picture breaks off, or its data are damaged", "fetch or save it again"),
    "format_not_allowed": Reason("error", "a format that is not read here", "save it as JPEG, PNG or WebP"),
    "too_many_bytes": Reason("error", "a picture file is too large to be read", "save it smaller"),
    "too_many_pixels": Reason("error", "too many pixels, or a decompression bomb", "make it smaller; look where it came from"),
    "video": Reason("error", "a clip that cannot be shown", "a folder of frames, and a `video` block in the tiling"),
    "wrong_extension": Reason("warning", "is called after another format than it is", "rename it: other tools trust the name"),
    "large_image": Reason("warning", "so many pixels that decoding takes seconds", "shrink it: an encoder sees far less"),
    "tiny_image": Reason("warning", "only a few pixels: often a tracking pixel or icon", "drop it, or find the original"),
    "extreme_aspect": Reason("warning", "far longer than wide: little is left of it", "crop it, or drop it"),
    "blank_image": Reason("warning", "one colour all over: often a placeholder", "drop it, or fetch it again"),
}
_TEXT = {
    "stop_string": Reason("error", "an answer holds a string at which replies end", "take it out: replies would end there"),
    "null_character": Reason("error", "text holds a NUL character", "take it out; the text may be cut or binary"),
    "lone_surrogate": Reason("error", "text holds half of a character", "decode the source again, as UTF-8 or UTF-16"),
    "special_token": Reason("warning", "text holds a special token of a tokenizer", "take it out, or escape it"),
    "role_marker": Reason("warning", "text holds the mark of a speaker", "split the turn there, or take it out"),
    "typed_placeholder": Reason("warning", "<image> or <video> as letters beside pictures", "take it out"),
    "replacement_character": Reason("warning", "letters were lost in decoding (U+FFFD)", "decode the source again"),
    "mojibake": Reason("warning", "UTF-8 that was read as Latin-1 ('Ã©' for 'é')", "decode the source again, as UTF-8"),
    "control_character": Reason("warning", "invisible control characters", "take them out"),
    "long_text": Reason("warning", "a turn of more letters than any model is taught at once", "split it, or drop it"),
    "looping_text": Reason("warning", "the same words again and again", "drop it: a model wrote it that did not stop"),
    "repeated_question": Reason("warning", "the same question twice in a sample", "drop one of the two"),
    "echoed_question": Reason("warning", "an answer is its question", "write the answer, or drop the turns"),
    "refusal": Reason("warning", "an answer that refuses, or says what it cannot see", "drop the turns"),
    "mentions_source": Reason("warning", "speaks of captions or boxes that it was made from", "drop the turns"),
}
_BOXES = {
    "bad_annotation": Reason("error", "captions or boxes that are not of their form", "mend it by what its message says"),
    "bad_box": Reason("error", "a box that its source cannot read", "mend it by what its message says"),
    "box_not_a_number": Reason("error", "a box has NaN or infinity in it", "take the box out, or convert again"),
    "box_outside": Reason("error", "a box lies outside of its picture", "check the sizes and the convention"),
    "box_empty": Reason("error", "a box has no area, or its corners are swapped", "left < right, top < bottom"),
    "box_without_label": Reason("warning", "a box names nothing", "give it its category, or take it out"),
    "text_box_outside": Reason("error", "a box in the text lies outside of its picture", "check the convention it states"),
    "text_box_empty": Reason("error", "a box in the text has no area, or is swapped", "write [left, top, right, bottom]"),
    "text_box_convention": Reason("note", "boxes in the text, and nobody says of what", "state box_convention"),
}
_SETS = {
    "duplicate_id": Reason("warning", "an id that an earlier row has", "give each row an id of its own"),
    "duplicate_sample": Reason("warning", "the turns and pictures of an earlier row", "drop one of the two"),
    "duplicate_picture": Reason("warning", "the same picture under another name", "name one file in both rows, or drop one"),
    "near_duplicate_picture": Reason("warning", "nearly the same picture as an earlier one", "look at both; drop one"),
    "leaked_sample": Reason("error", "picture and question are in the other split too", "drop it here"),
    "leaked_picture": Reason("warning", "the picture is in the other split too", "drop it here, or know of it"),
    "near_leaked_picture": Reason("warning", "nearly a picture of the other split", "look at both; drop it here"),
}
_TRAINING = {
    "too_long": Reason("error", "does not fit into max_length: it is left out", "raise max_length, or shorten the sample"),
    "dropped_turns": Reason("warning", "its last turns do not fit into max_length", "raise max_length, or split the sample"),
    "no_targets": Reason("error", "no token of it is learnt", "give it an answer"),
    "few_targets": Reason("note", "nearly nothing of it is learnt", "merge questions about one picture"),
    "unknown_token": Reason("warning", "letters that the tokenizer has no token for", "another tokenizer, or drop it"),
}
REASONS: dict[str, Reason] = {**_ROWS, **OF_TOOLS, **_PICTURES, **_TEXT, **_BOXES, **_SETS, **_TRAINING}
OTHER = Reason("error", "refused by its source, template or reader", "mend the row by what its message says")


def reason_of(code: str) -> Reason:
    """What a code means; a plugin may have codes of its own, and what it refuses cannot be trained on."""
    return REASONS.get(code, OTHER)
