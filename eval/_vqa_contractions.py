"""Contractions whose apostrophes the VQA evaluator restores ("dont" to "don't").

The official table maps each spelling with one missing apostrophe to the full contraction, so it
follows from the contractions alone, with these exceptions:

* "somebody'd" becomes "somebodyd": key and value are swapped in the official table.
* "I'm", "I've" and "I'd've" are capitalized there and never match lowercase text, so they are
  omitted here.
* Contractions that the table does not list ("i'll", "she'd") stay unchanged.
"""

__all__ = ["CONTRACTIONS"]

_FULL_SPELLINGS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't
    mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're
    you've
""".split()

CONTRACTIONS = {
    word[:position] + word[position + 1 :]: word
    for word in _FULL_SPELLINGS
    for position, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}
