import pytest

from braggd.errors import PhasingError
from braggd.phasing.recipe import Block, iterations, parse


def test_recipes_are_read_in_order():
    blocks = parse("400*HIO + 300 * raar+ER")
    assert blocks == (Block(400, "HIO"), Block(300, "RAAR"), Block(1, "ER"))
    assert iterations(blocks) == 701


@pytest.mark.parametrize(
    ("recipe", "named"),
    [
        ("400*HIO + 3*FOO", "'FOO'"),
        ("400*HIO + + 3*ER", "''"),
        ("HIO*400", "'HIO*400'"),
        ("-3*ER", "'-3*ER'"),
        ("0*ER", "'0*ER'"),
        ("1.5*ER", "'1.5*ER'"),
        ("", "empty"),
        ("  ", "empty"),
    ],
)
def test_a_wrong_recipe_names_the_wrong_part(recipe, named):
    with pytest.raises(PhasingError, match=r"^[^\n]*$") as caught:
        parse(recipe)
    assert named in str(caught.value)
