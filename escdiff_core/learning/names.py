"""What a run calls things: its token, the words that it starts from and that stand for it, and what the
picture shows besides."""

from dataclasses import dataclass

from ..attribute.file import LONGEST_TEXT, is_text
from ..errors import ESCDiffError
from .recipes import Recipe


@dataclass(frozen=True)
class Names:
    """``token`` begins as ``init_word``, and ``plain`` stands for it where it is unknown. ``class_word``:
    what the subject is, empty if nobody says; ``describe``: the rest of the picture in words, for recipes
    that learn from it as it is.
    """

    token: str
    init_word: str
    plain: str
    class_word: str
    describe: str

    @classmethod
    def of(
        cls, recipe: Recipe, token: str | None = None, class_word: str = "", describe: str = ""
    ) -> "Names":
        """The names of a run of ``recipe``. Raises ESCDiffError for what no file could hold."""
        token, class_word = token or recipe.token, " ".join(class_word.split())
        if len(token.split()) != 1:
            raise ESCDiffError(
                f"the token is {token!r}; needed: one word without spaces, such as {recipe.token}"
            )
        for what, text in (("token", token), ("class word", class_word)):
            if not is_text(text):
                raise ESCDiffError(
                    f"the {what} is {text[:80]!r}; needed: at most {LONGEST_TEXT} letters, all of them "
                    "visible"
                )
        # What a shape is of starts its token and stands for it; with an appearance it is a word of the prompt
        named = class_word if recipe.kind != "appearance" else ""
        # a token that stays at its word must not be the plain one
        init_word = named if named and recipe.lr_token else recipe.init_word
        return cls(token, init_word, named or recipe.word, class_word, describe)

    def subject(self, kind: str) -> str:
        """What the rest of a picture is called where no view says it."""
        return self.class_word if kind == "appearance" else ""
