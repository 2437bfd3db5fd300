"""The checks themselves: each finds what it is there for, in a small tree made for that."""

import os
import pathlib
import shutil
import subprocess
import sys
import types

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(tmp_path):
    """A tree with one faultless header and source, and the project's own rules."""
    (tmp_path / "tests").mkdir()
    shutil.copytree(TOP / "tests/lint", tmp_path / "tests/lint", ignore=shutil.ignore_patterns("npm"))
    for name in (".clang-format", ".clang-tidy", "server/README.md", "server/base/banned.h"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TOP / name, tmp_path / name)
    (tmp_path / "server/base/log.h").write_text("#pragma once\n")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)

    def add(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def check(name, *arguments):
        done = subprocess.run(
            [tmp_path / "tests/lint" / name, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120,
            env={**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def tool(name, text):
        """Another program of this name, which is found first."""
        add(f"bin/{name}", "#!/bin/sh\n" + text)
        (tmp_path / "bin" / name).chmod(0o755)

    return types.SimpleNamespace(add=add, check=check, tool=tool, bin=tmp_path / "bin")


FLOORS = [
    ("upwards", "server/mail/x.c", '#include "server/net/x.h"\n', "above floor 1"),
    ("to a neighbour", "server/delivery/x.c", '#include "api/x.h"\n', "neighbour"),
    ("smtp to the store", "server/smtp/x.c", '#include "storage/x.h"\n', "knows no store"),
    ("not from the root", "server/net/y.c", '#include "x.h"\n', "repository root"),
    ("to the configuration", "server/events/x.c", '#include "server/config.h"\n', "above floor 6"),
    ("a library out of its room", "server/mail/x.c", "#include <sqlite3.h>\n", "SQLite 3 is allowed in storage/sqlite/"),
    ("event loop outside the HTTP server", "api/other.c", "#include <event2/event.h>\n", "libevent 2.1 is allowed in"),
    ("a file in no room", "server/elsewhere/x.c", "int x;\n", "in no room"),
    ("a second JSON reader in storage", "storage/b.c", "#include <jansson.h>\n", "one file"),
]


@pytest.mark.parametrize("name, path, text, said", FLOORS, ids=[row[0] for row in FLOORS])
def test_floors_refuses_an_include(tree, name, path, text, said):
    for header in ("server/net/x.h", "api/x.h", "storage/x.h", "server/config.h"):
        tree.add(header, "#pragma once\n")
    tree.add("storage/a.c", "#include <jansson.h>\n")
    before, _ = tree.check("floors")
    tree.add(path, text)
    after, output = tree.check("floors")
    assert (before, after) == (0, 1) and said in output, output


def test_floors_accepts_what_goes_down(tree):
    tree.add("server/net/x.h", '#pragma once\n#include "server/base/banned.h"\n')
    tree.add("server/net/tls.c", '#include <openssl/ssl.h>\n#include "server/net/x.h"\n')
    tree.add("server/net/loop.c", "#include <event2/event.h>\n#include <sys/queue.h>\n")
    status, output = tree.check("floors")
    assert status == 0, output


def test_floors_keeps_containers_in_their_room(tree):
    tree.add("server/net/private.h", "#include <sys/queue.h>\n")
    tree.add("server/net/public.h", '#include "server/net/private.h"\n')
    tree.add("server/net/x.c", '#include "server/net/public.h"\n')
    assert tree.check("floors")[0] == 0
    tree.add("server/smtp/x.c", '#include "server/net/public.h"\n')
    status, output = tree.check("floors")
    assert status == 1 and "server/smtp/x.c:1" in output and "<sys/queue.h> by server/net/private.h" in output


def test_floors_finds_a_cycle(tree):
    tree.add("server/mail/a.h", '#include "server/mail/b.h"\n')
    tree.add("server/mail/b.h", '#include "server/mail/a.h"\n')
    status, output = tree.check("floors")
    assert status == 1 and "include cycle" in output


SQL = [
    ("printed", 'snprintf(q, n, "SELECT a FROM b WHERE c = \'%s\'", c);', 1),
    ("printed into a buffer", 'buf_printf(&q, "DELETE FROM %s", t);', 1),
    ("put into a buffer", 'buf_put(&q, "DELETE FROM ", 12);', 1),
    ("put into a buffer, and prepared", "buf_putz(&q, x); sqlite3_prepare_v2(db, q.data, -1, &s, 0);", 1),
    ("condition added", 'buf_printf(&q, " WHERE id = %d", 1);', 1),
    ("literal over two lines", 'snprintf(q, n, "UPDATE "\n"x SET a = %d", 1);', 1),
    ("prepared from a call", "sqlite3_prepare_v2(db, make(x), -1, &s, 0);", 1),
    ("prepared from what was printed", "snprintf(q, 9, x); sqlite3_prepare_v2(db, q, -1, &s, 0);", 1),
    ("a literal prepared", 'sqlite3_prepare_v2(db, "SELECT 1", -1, &s, 0);', 0),
    ("an entry of a table prepared", "sqlite3_prepare_v3(db, statements[i].sql, -1, 0, &s, 0);", 0),
    ("a message that mentions it", 'err_set(e, 1, "", "cannot select %s", x);', 0),
    ("in a comment", '/* snprintf(q, n, "SELECT %s", x) */', 0),
]


@pytest.mark.parametrize("name, text, status", SQL, ids=[row[0] for row in SQL])
def test_sql(tree, name, text, status):
    tree.add("storage/sqlite/x.c", f"void f(void) {{ {text} }}\n")
    got, output = tree.check("sql")
    assert got == status, output


WORDS = [
    ("unfinished", "/* TO" + "DO later */"),
    ("a home", "cd /ho" + "me/ann/src"),
    ("a workplace", "/wo" + "rk/main"),
    ("a registry", "https://registry.npm" + "js.org/x"),
    ("a conflict", "<<<<" + "<<< HEAD"),
]


@pytest.mark.parametrize("name, text", WORDS, ids=[row[0] for row in WORDS])
def test_words(tree, name, text):
    assert tree.check("words")[0] == 0
    tree.add("docs.md", text + "\n")
    status, output = tree.check("words")
    assert status == 1 and "docs.md:1" in output


def test_headers_finds_one_that_needs_another(tree):
    tree.add("server/mail/x.h", "#pragma once\n#include <stdint.h>\nuint32_t x(void);\n")
    assert tree.check("headers")[0] == 0
    tree.add("server/mail/y.h", "#pragma once\nuint32_t y(void);\n")
    status, output = tree.check("headers")
    assert status == 1 and "server/mail/y.h" in output


def test_tidy_and_cppcheck_find_bugs(tree):
    tree.add("server/mail/x.c", "int x(int a);\nint x(int a) { return a; }\n")
    assert tree.check("tidy")[0] == 0
    assert tree.check("cppcheck")[0] == 0
    tree.add(
        "server/mail/y.c",
        "#include <stdlib.h>\nint y(void);\n"
        "int y(void) {\n    int a[2] = {0, 0};\n    int *p = NULL;\n    return a[2] + *p;\n}\n",
    )
    status, output = tree.check("tidy")
    assert status == 1 and "server/mail/y.c" in output
    status, output = tree.check("cppcheck")
    assert status == 1 and "server/mail/y.c" in output


def test_cppcheck_reads_past_a_loop_that_a_library_defines(tree):
    head = "#include <jansson.h>\nint x(const json_t *all);\nint x(const json_t *all) {\n    size_t i;\n    json_t *one;\n"
    loop = "    json_array_foreach(all, i, one) x(one);\n"
    tree.add("server/mail/x.c", head + loop + "    return 0;\n}\n")
    assert tree.check("cppcheck")[0] == 0
    tree.add("server/mail/x.c", head + loop + "    int *p = NULL;\n    return *p;\n}\n")
    status, output = tree.check("cppcheck")
    assert status == 1 and "server/mail/x.c:8" in output and "[nullPointer]" in output, output


def test_a_unit_program_that_ends_early_has_failed(tree):
    for ended, status in ((2, 0), (1, 1)):
        listed = "echo '[  SKIPPED ] 1 test(s), listed below:'; echo '[  SKIPPED ] a'\n"  # what was left out is named twice
        tree.tool("test_x", "echo '[==========] Running 3 test(s).'; echo '[  SKIPPED ] a'\n" + "echo '[       OK ] b'\n" * ended + listed)
        done = subprocess.run([TOP / "tests/run-unit", "test_x"], capture_output=True, text=True, timeout=60,
                              env={**os.environ, "PATH": f"{tree.bin}:{os.environ['PATH']}"})  # fmt: skip
        assert done.returncode == status and f"{ended if ended == 2 else 0} tests in" in done.stdout, done.stdout


def test_a_tool_that_fails_finds_not_nothing(tree):
    tree.add("server/mail/x.c", "int x(int a);\nint x(int a) { return a; }\n")
    tree.tool("clang-tidy", "echo Segmentation fault >&2; exit 139\n")
    status, output = tree.check("tidy")
    assert status == 1 and "server/mail/x.c: clang-tidy failed" in output, output
    assert tree.check("tidy")[0] == 1  # nor is it remembered as clean
    tree.tool("cppcheck", "exit 3\n")
    assert tree.check("cppcheck")[0] != 0


def test_what_is_not_checked_has_not_passed(tree):
    for name in ("clang-format-14", "clang-format"):
        tree.tool(name, "echo clang-format version 19.1.0\n")
    status, output = tree.check("run", "format", "words")
    assert status == 0 and "lint: 1 checks passed, 0 failed; not checked: format" in output, output


HARNESSES = ("crash/points", "crash/run", "crash/server", "fault/run", "fault/server", "power/run", "soak/run", "bench/slow", "bench/tenants")


@pytest.mark.parametrize("name", HARNESSES)
def test_a_harness_without_what_it_runs_says_so_and_makes_nothing(tmp_path, name):
    build = tmp_path / "asan"
    where = ["--binary", build / "postchute"] if name.startswith("bench") else ["--build", build]
    done = subprocess.run([TOP / "tests" / name, *where], cwd=tmp_path, capture_output=True, text=True, timeout=60, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert ": missing: asan/" in done.stderr and "`make VARIANT=asan tools`" in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments, status, said", [
    (["--help"], 0, "--sync-us"), (["--only", "nosuch"], 2, "'nosuch' is none of: postchute,"), (["--shapes", "2 KiB,x"], 2, "'x' is none of: 2 KiB,"),
    (["--nosuch"], 2, "--nosuch"), (["--binary", "nosuch"], 1, "bench: missing: "),
])  # fmt: skip
def test_the_bench_answers_wrong_arguments_before_it_fetches(tree, tmp_path, arguments, status, said):
    for name in ("bench/run", "bench/bench.py", "bench/subjects.py", "power/built.py"):
        tree.add(f"tests/{name}", (TOP / "tests" / name).read_text())
    tree.add("tests/bench/fetch", "#!/bin/sh\necho fetched\n")
    for name in ("run", "fetch"):
        (tmp_path / "tests/bench" / name).chmod(0o755)
    done = subprocess.run([tmp_path / "tests/bench/run", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == status and said in done.stdout + done.stderr and "fetched" not in done.stdout, done.stdout + done.stderr
    assert not (tmp_path / "build").exists()


def test_what_is_a_boolean_to_some_readers_of_yaml_is_not_embedded(tree, tmp_path):
    tree.add("openapi/embed", (TOP / "openapi/embed").read_text())
    made = tmp_path / "api/v1/openapi_json.inc"
    made.parent.mkdir(parents=True)
    for document, said in [
        ("a:\n  off: 1\n", "postchute.yaml, line 2: off is a boolean to YAML 1.1"),
        ("a: [b, No]\n", "No is a boolean"),
        ("a: {'off': true, b: 'yes'}\n", ""),
    ]:
        tree.add("openapi/postchute.yaml", document)
        done = subprocess.run([sys.executable, tmp_path / "openapi/embed"], capture_output=True, text=True, timeout=60)
        assert said in done.stderr and done.returncode == (1 if said else 0), done.stderr
    assert r'{\"off\":true,\"b\":\"yes\"}' in made.read_text()


def test_routes_compares_table_and_document(tree):
    tree.add("api/routes.c", 'const struct route routes[] = {{HTTP_GET, "/a/{id}", f, S, 0, 0, NULL},\n'
             '    {HTTP_POST, "/a", f, S, SMALL, 0, NULL},\n'
             '    {HTTP_GET, "/livez", g, 0, 0, ROUTE_PUBLIC | ROUTE_HEALTH, NULL}};\n')  # fmt: skip
    tree.add("server/render/problem.c", '    [PROBLEM_NOT_FOUND] = {404, "not_found", "There is no such thing"},\n')
    tree.add("api/v1/a.c", 'request_problem(r, PROBLEM_NOT_FOUND, "no");\n')
    key = '"401": {}, "403": {}, "422": {}, "429": {}, "503": {}'
    good = ('{"security": [{"key": []}], "paths": {"/a/{id}": {"get": {"responses": {"404": {}, %s}}}, '
            '"/a": {"post": {"requestBody": {}, "responses": {"400": {}, "413": {}, "415": {}, %s}}}, '
            '"/livez": {"get": {"security": []}}}, '
            '"components": {"schemas": {"Problem": {"properties": {"code": {"enum": ["not_found"]}}}}}}') % (key, key)  # fmt: skip
    tree.add("openapi/postchute.yaml", good)
    assert tree.check("routes")[0] == 0
    for bad, said in [
        (good.replace('"/a/{id}"', '"/b"'), "not served"),
        (good.replace('{"get": {"resp', '{"post": {}, "get": {"resp'), "POST /a/{id} is described"),
        (good.replace('"404": {}, ', ""), "GET /a/{id} can answer 404"),
        (good.replace('"400": {}, "413": {}, ', ""), "POST /a can answer 400, 413"),
        (good.replace('"403": {}, ', "", 1), "GET /a/{id} can answer 403"),
        (good.replace('{"security": []}', "{}"), "needs a key in openapi"),
        (good.replace("{id}", "{other}"), "is called /a/{other}"),
        (good.replace('"not_found"', '"not_found", "teapot"'), "teapot is in openapi/postchute.yaml, but not in"),
        (good.replace('"not_found"', ""), "not_found is in server/render/problem.c, but not in"),
    ]:
        tree.add("openapi/postchute.yaml", bad)
        status, output = tree.check("routes")
        assert status == 1 and said in output, output
    tree.add("openapi/postchute.yaml", good)
    tree.add("api/v1/a.c", "")
    status, output = tree.check("routes")
    assert status == 1 and "not_found is in server/render/problem.c, but nothing in api/ answers it" in output, output
