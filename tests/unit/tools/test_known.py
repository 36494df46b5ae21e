from crishim.tools.known import Known


async def test_a_program_is_asked_again_only_after_it_was_replaced(tmp_path):
    program = tmp_path / "tool"
    program.write_text("1.0")
    asked = []

    async def ask():
        asked.append(program.read_text())
        return asked[-1]

    known = Known()
    assert [await known.get(str(program), ask) for _ in range(3)] == ["1.0"] * 3
    assert asked == ["1.0"]
    successor = tmp_path / "new"
    successor.write_text("2.0")
    successor.replace(program)
    assert await known.get(str(program), ask) == "2.0"
