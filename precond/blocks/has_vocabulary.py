"""Tell whether a matrix has an axis of tokens, from its name, its shape, and the tables of the tree."""

from precond.blocks.parameter import Parameter
from precond.blocks.parameter_names import is_table, is_vocabulary
from precond.blocks.path_name import parts_of

__all__ = ["has_vocabulary"]

_LARGE = 16384  # the smallest side that is a vocabulary without a table that shows it
_ROOTS = {"params", "model"}


def has_vocabulary(parts: tuple[str, ...], leaf: Parameter) -> bool:
    """Return whether a matrix is an embedding, or the outputs of a language model.

    A matrix of the shape of a table in the same tree has the vocabulary of this table, if its long side is 16384 or
    more. A numbered layer may be as wide by chance, so that it does not count.

    Meta's llama calls its outputs `output`, and many models without tokens have this name, too. So it counts only at
    the top of the tree, and only if one side is more than twice the other. There a table of the same shape may be
    shorter. Without such a table, a length of 16384 or more shows the vocabulary.

    Args:
      parts: the parts of the parameter's path.
      leaf: the parameter.

    Examples:
      >>> table = {"../tok_embeddings/weight": (512, 64)}
      >>> has_vocabulary(("output", "weight"), Parameter((512, 64), "float32", table))
      True
      >>> has_vocabulary(("output", "weight"), Parameter((512, 64), "float32"))
      False
      >>> table = {"/model/wte/embedding": (50304, 768)}
      >>> has_vocabulary(("head", "kernel"), Parameter((768, 50304), "float32", table))
      True
    """
    if is_vocabulary(parts):
        return True
    if leaf.ndim != 2:
        return False
    short, long = sorted(leaf.shape)
    if 2 * short >= long:
        return False
    tables = [shape for name, shape in leaf.neighbours.items() if is_table(parts_of(name))]
    beside = any(sorted(shape) == [short, long] for shape in tables)
    if parts[-2:-1] == ("output",) and _ROOTS.issuperset(parts[:-2]):
        return beside or long >= _LARGE
    return beside and long >= _LARGE and not any(character.isdigit() for character in "".join(parts))
