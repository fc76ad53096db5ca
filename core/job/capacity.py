"""How many rows an expert of limited capacity keeps."""

from decimal import Decimal


def rows_kept(factor: float, tokens: int, topk: int, experts: int) -> int:
    """ceil(factor x tokens x topk / experts), exact in the factor's shortest decimal form.

    So that ceil(1.1 x 10) is 11, and not 12 as of the float nearest to 1.1.
    """
    numerator, denominator = Decimal(repr(factor)).as_integer_ratio()
    return -(-numerator * tokens * topk // (denominator * experts))
