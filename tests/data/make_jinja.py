"""Writes jinja.jsonl: expressions and statements of Jinja, and what PyPI jinja2 makes of them in the environment of transformers.

The first line holds the variables that all have. Then one line each: the template, and its output or "error": true where
Python raises. Needs PyPI jinja2; the committed file was made with version 3.1.6 on Python 3.11.
"""

import itertools
import json
import pathlib
import re

from make_chat import environment

VARIABLES = {
    "text": "Hello, World",
    "words": ["pear", "Apple", "fig", "apple"],
    "numbers": [3, 1, 2, 1],
    "people": [
        {"name": "Ada", "age": 36, "town": {"name": "London"}, "tags": ["x", "y"]},
        {"name": "bob", "age": 7, "town": {"name": "Graz"}, "tags": []},
        {"name": "Cy", "age": 36, "town": {"name": "Graz"}, "tags": ["z"]},
    ],
    "schema": {"type": "object", "b": {"x": [1, 2.5, None, True], "a": "é"}, "empty": {}, "none": [], "n": 1e-05},
    "nothing": None,
    "yes": True,
    "tree": [{"v": 1, "kids": [{"v": 2, "kids": [{"v": 3, "kids": []}]}, {"v": 4, "kids": []}]}, {"v": 5, "kids": []}],
}

STRINGS = [
    "''", "'a'", "'Hello World'", "'  pad '", "'a,b,,c'", "'one\\ntwo\\r\\nthree\\n'", "'ünï✓😀'", "'it\\'s \"q\"'",
    "'xxabcxx'", "'123'", "'-4.5'", "'aaa'", "'a\\tb  c'", "'ẞtraße ΑΣ'", "'they\\'re bill\\'s 3rd-rate'",
]
METHODS = [
    "upper()", "lower()", "title()", "capitalize()", "swapcase()", "casefold()", "strip()", "lstrip()", "rstrip()",
    "strip('x')", "lstrip('xa ')", "rstrip('cx\\n')", "strip(none)", "split()", "split(',')", "split(',', 1)",
    "split(sep=',', maxsplit=1)", "split(maxsplit=1)", "split(none, 1)", "split(' ', -1)", "rsplit()", "rsplit(',', 1)",
    "rsplit(maxsplit=1)", "rsplit(',')", "splitlines()", "splitlines(true)", "splitlines(keepends=true)",
    "partition(',')", "rpartition(',')", "partition('b')", "removeprefix('xx')", "removesuffix('xx')",
    "removeprefix('')", "replace('a', 'bb')", "replace('a', 'b', 1)", "replace('', '-')", "replace('x', '')",
    "startswith('a')", "startswith('b', 1)", "startswith(('x', 'H'))", "startswith('l', 2, 4)", "endswith('d')",
    "endswith(('x', 'c'))", "endswith('a', 0, 2)", "startswith('')", "startswith('', 99)", "find('a')", "find('a', 1)",
    "find('a', 1, 2)", "find('')", "find('zz')", "rfind('a')", "rfind('a', 0, 2)", "count('a')", "count('')",
    "count('a', 1)", "index('a')", "rindex('a')", "ljust(8) ~ '|'", "rjust(8, '.')", "center(9)", "center(10, '*')",
    "zfill(6)", "isdigit()", "isnumeric()", "isdecimal()", "isalpha()", "isalnum()", "isspace()", "isupper()",
    "islower()", "istitle()", "isascii()", "isidentifier()", "isprintable()", "expandtabs()", "expandtabs(4)",
    "join(['a', 'b'])", "join('xyz')", "format()", "nosuch()",
]
EDGE_STRINGS = [
    "'１２'.isdigit()", "'²'.isdigit()", "'²'.isdecimal()", "'½'.isnumeric()", "'½'.isdigit()", "'Ⅷ'.isnumeric()",
    "'a\\x0bb\\x0cc\\x1cd\\x85e\\u2028f'.splitlines()", "'\\xa0x\\x1c'.strip()", "'a\\xa0b\\x1fc'.split()",
    "'a b c d'.rsplit(' ', 2)", "' a  b '.rsplit(none, 1)", "'  a  b  '.split(none, 1)", "'abc'.index('z')",
    "'abc'.split('')", "'a.b'.partition('')", "','.join([1])", "'ab'.join({'x': 1, 'y': 2})",
    "'abcdef'.startswith('cd', -4)", "'abcdef'.endswith('de', -4, -1)", "'ääöö'.find('ö')", "'ääöö'.rfind('ö')",
    "'ääöö'.index('ö', 3)", "'ääöö'[1:3]", "'x'.startswith(1)", "'x' 'y' ~ 'z'", "'%d' % 'x'", "'{}-{}'.format(1)",
    "'{0}{1}{0}'.format('a', 'b')", "'{a}{b[0]}{c.d}'.format(a=1, b=[2], c={'d': 3})", "'{:>5}|{:<5}|{:^5}'.format(1, 'a', 'b')",
    "'{:05.1f} {:x} {:,} {:+}'.format(3.14159, 255, 1234567, 5)", "'{{}}'.format()", "'{!r} {!s}'.format('a', 'b')",
    "'{:.3}'.format('abcdef')", "'{:%}'.format(0.25)", "'{:e}'.format(12345.678)", "'{:g}'.format(0.00001)",
    "'{:b} {:o} {:X} {:#x}'.format(5, 8, 255, 255)", "'{}'.format(none)", "'{}'.format([1, 'a'])", "'{}'.format(1.0)",
    "'\\x41\\u00e9\\U0001F600\\101\\a\\b\\f\\v\\0'|tojson", "'\\q\\.'", "'\\N{BULLET}'", "'a\\\nb'", "\"it's\" 'x'",
    "'\\'' ~ \"\\\"\"", "'\\\\n'", "'\\d'", "'a' < 'B'", "'a' * 3", "3 * 'ab'", "'a' + 'b' * 2", "'a' in 'cat'", "'' in ''",
    "'abc'|first", "'abc'|last", "''|first is undefined", "'abc'|list", "'abc'|reverse", "'abc'|length", "'é😀'|length",
    "'Mixed Case'|swapcase is defined", "'abc'[0]", "'abc'[-1]", "'abc'[5] is undefined", "'abc'[::-1]", "'abcdef'[1:5:2]",
    "'abcdef'[-3:]", "'abcdef'[:-2]", "'abcdef'[4:1:-1]", "'abcdef'[10:]", "'abc'[::0]", "'x'.y is undefined", "'x'['upper']()",
]
FORMATS = [
    "'%s' % 'x'", "'%s, %d' % ('x', 3)", "'%(a)s' % {'a': 1}", "'%5d|%-5d|%05d' % (1, 2, 3)", "'%.2f' % 3.14159", "'%x %X %o' % (255, 255, 8)",
    "'%e' % 12345.678", "'%g %g %g' % (0.00001, 1000000.0, 1e20)", "'%r' % 'a'", "'%r' % [1, 'b']", "'%%' % ()", "'%s' % (1,)", "'%s' % [1, 2]",
    "'%s' % none", "'%s %s' % ('a',)", "'%s' % ('a', 'b')", "'%c' % 65", "'%c' % 'A'", "'%+d' % 5", "'% d' % 5", "'%#x' % 255", "'%i' % 3.7",
    "'%-10s|' % 'ab'", "'%.2s' % 'abc'", "'%*d' % (5, 1)", "'%a' % 'é'", "'%s' % true", "'%d' % true", "'%s' % 1.0", "'%s' % 1e-05", "'%s' % {'a': 1}",
    "'%s|%s'|format(1, 'x')", "'%(a)s'|format(a=3)", "'%.1f%%'|format(99.55)", "'%s'|format(none)", "'%d items' % numbers|length",
    "5 % 3", "-5 % 3", "5.5 % 2", "5 % -3", "'%s' % text", "'%s %s' % (text, numbers)", "'plain' % ()", "'%s' % undefined_name",
]
NUMBERS = [
    "1", "1.0", "1.5", "-1", "1e3", "1e16", "1e15", "123456789012345680.0", "1e-5", "0.0001", "0.1 + 0.2", "1e100", "1_000", "0x1f", "0b101", "0o17",
    "7 // 2", "-7 // 2", "7 / 2", "6 / 2", "7 % 3", "2 ** 10", "2 ** -1", "2 ** 3 ** 2", "-2 ** 2", "2 ** 0.5", "7.5 // 2", "10 ** 20", "1 / 3",
    "2 ** 63", "9223372036854775807 + 1", "1 + 2 * 3", "(1 + 2) * 3", "1 - -1", "+5", "- 5", "1 == 1.0", "1 < 2 < 3", "1 < 3 < 2", "3 > 2 >= 2",
    "true + 1", "true == 1", "1 // 0", "1 / 0", "1 % 0", "3 / 1", "1e3 // 1", "100000000000000000000", "1.0e10", "1 < 'a'", "1 == 'a'", "none == false",
    "0 == false", "1 in [1.0]", "5|abs", "-5|abs", "-5.5|abs", "3.7|int", "-3.7|int", "'12'|int", "'x'|int", "'x'|int(5)", "'0x1f'|int(base=16)",
    "'ff'|int(0, 16)", "none|int", "'3.7'|int", "'3.5'|float", "'x'|float", "'x'|float(1.5)", "3|float", "2.5|round", "3.5|round", "2.567|round(2)",
    "2.1|round(method='ceil')", "2.9|round(0, 'floor')", "42|round", "1234|round(-2)", "5|string + 'x'", "1.0|string", "1e-5|string", "1e16|string",
    "[1e-5]", "[1e16, 0.1]", "1e-5 ~ ''", "'' ~ 1e-5 ~ 'x' ~ [1e22]", "'a' ~ 1e-5 * 2 ~ none ~ undefined_name", "1 + 2 ~ 3 - 1", "'a' ~ (1 if yes else 2) ~ text[0]|upper", "'a' ~ text.split(',')[0] ~ {'k': 1e16}.k", "'a' ~ 1 is string", "'%s' % 'x' ~ '%d' % 3 ~ 5", "[1e22] ~ ''", "1e16 ~ 'x'", "[1e-5]|join(',')", "true ~ none", "1.0 ~ 1", "10|filesizeformat", "1500|filesizeformat",
    "1500|filesizeformat(true)", "3000000|filesizeformat", "1|int is integer", "(1.5).is_integer()", "(2.0).is_integer()", "(5).bit_length()", "inf is undefined", "-0.0",
    "1e400", "-1e400", "1e308 * 10 - 1e308 * 10", "3|string|int", "(7 / 2)|int", "10 is divisibleby 5", "10 is divisibleby(3)", "3 is odd", "4 is even",
]
LISTS = [
    "[]", "[1, 'a', none, true, 1.5, [2], {'k': 'v'}, ('t', 1)]", "(1,)", "()", "(1, 2)", "[1, 2] + [3]", "[1] * 3", "(1,) + (2,)", "[1, 2] == [1, 2]", "[1, 2] == (1, 2)",
    "[1, 2] < [1, 3]", "[3, 1, 2]|sort", "words|sort", "words|sort(true)", "words|sort(case_sensitive=true)", "words|sort(reverse=true, case_sensitive=true)",
    "people|sort(attribute='age')|map(attribute='name')|list", "people|sort(attribute='age,name')|map(attribute='name')|list", "people|sort(attribute='town.name')|map(attribute='name')|join(' ')",
    "people|map(attribute='town.name')|list", "people|map(attribute='town.zip', default='?')|list", "people|map(attribute='zip')|list", "people|map('length')|list", "words|map('upper')|list",
    "words|map('replace', 'p', 'q')|join", "people|selectattr('age', 'eq', 36)|map(attribute='name')|list", "people|selectattr('age', '>', 10)|list|length", "people|rejectattr('tags')|map(attribute='name')|list",
    "people|selectattr('tags')|list|length", "people|selectattr('name', 'in', ['Ada', 'Cy'])|map(attribute='name')|list", "people|selectattr('name', 'equalto', 'bob')|first", "people|selectattr('zip', 'defined')|list", "people|selectattr('zip', 'undefined')|list|length",
    "numbers|select('odd')|list", "numbers|reject('odd')|list", "numbers|select('divisibleby', 2)|list", "numbers|select('>', 1)|list", "numbers|select|list", "[0, 1, '', none]|select|list", "[0, 1, '', none]|reject|list",
    "numbers|sum", "people|sum(attribute='age')", "numbers|sum(start=10)", "[[1], [2]]|sum(start=[])", "numbers|min", "numbers|max", "words|min", "words|max(case_sensitive=true)", "people|min(attribute='age')", "people|max(attribute='age')", "[]|min is undefined", "[]|max",
    "numbers|unique|list", "words|unique|list", "words|unique(true)|list", "people|unique(attribute='age')|map(attribute='name')|list", "numbers|reverse|list", "numbers|first", "numbers|last", "[]|first is undefined", "[]|last is undefined", "numbers|length", "numbers|count",
    "numbers|batch(2)|list", "numbers|batch(3, 'x')|list", "numbers|slice(3)|list", "numbers|slice(3, 'x')|list", "numbers|join", "numbers|join(', ')", "numbers|join(d='-')", "people|join(',', attribute='name')", "people|join('/', 'age')", "people|join(attribute='town.name')", "[[1e-5, 2], [1e16, 3]]|join(', ', attribute=0)", "[1, none, 'a', [1e-5]]|join('-')", "'abc'|join('.')", "undefined_name|join", "words|random in words",
    "people|groupby('age')|list|length", "people|groupby('age')|map('first')|list", "people|groupby('age')|map(attribute='grouper')|list", "people|groupby('town.name')|map('last')|map('length')|list", "people|groupby('zip', default='?')|map('first')|list",
    "numbers|list|string", "numbers[0]", "numbers[-1]", "numbers[9] is undefined", "numbers[1:]", "numbers[:-1]", "numbers[::-1]", "numbers[::2]", "numbers[5:1:-2]", "numbers[-2:]", "numbers[:0]", "numbers['x'] is undefined", "numbers.0", "words.index('fig')", "numbers.count(1)", "numbers.index(9)",
    "numbers.append(1)", "numbers.copy()", "1 in numbers", "9 not in numbers", "not 9 in numbers", "'pear' in words", "range(5)|list", "range(1, 10, 3)|list", "range(5, 0, -2)|list", "range(3)", "range(3)|length", "range(3)[1]", "2 in range(3)", "range(10)[2:4]|list", "range(0)|list",
    "range(3) is iterable", "range(3) is sequence", "numbers is sequence", "numbers is iterable", "numbers is mapping", "numbers is string", "(1, 2) is sequence", "numbers|tojson", "(1, 2)|tojson", "range(2)|list|tojson", "numbers|map('string')|join('+')", "zip is undefined", "words|map('first')|join",
    "words|map('length')|sum", "[1, 2, 3]|map('multiply', 2) is defined", "numbers|string|length", "numbers|pprint", "[[1, 2], [3, 4]]|map('sum')|list", "[[1, 2], [3, 4]]|map('last')|list", "[(1, 'a'), (2, 'b')]|map(attribute=1)|list", "[{'a': 1}]|map(attribute='a')|first", "dict([('a', 1)])", "dict(a=1, b=2)", "dict({'a': 1}, b=2)",
    "[1, 2, 3] is eq [1, 2, 3]", "numbers is lt [9]", "[none, 1]|sort", "[1, 'a']|sort", "words|list is sameas words", "numbers|wordcount", "'a b c'|wordcount", "[1, [2, [3]]]|string", "[true, false]|join", "['a', none]|join", "[undefined_name]|join", "[undefined_name]", "numbers|map|list", "words|map('nosuch')|list", "words|select('nosuch')|list",
]
DICTS = [
    "{}", "{'a': 1, 'b': [none, true]}", "{1: 2, 'x': {'y': 1.5}}", "{'a': 1}.a", "{'a': 1}['a']", "{'a': 1}.b is undefined", "{'a': 1}.get('a')", "{'a': 1}.get('b')", "{'a': 1}.get('b', 'z')", "schema.get('b').get('a')", "{'a': 1, 'b': 2}.keys()|list", "{'a': 1, 'b': 2}.values()|list", "{'a': 1, 'b': 2}.items()|list",
    "{'a': 1}.keys()", "{'a': 1}.items()", "{'a': 1}.values()", "{'a': 1}.keys()|length", "'a' in {'a': 1}.keys()", "{'a': 1}.items()|first", "schema|length", "schema|list", "schema|first", "schema|items|list|length", "schema|dictsort|map('first')|list", "{'b': 1, 'A': 2}|dictsort", "{'b': 1, 'A': 2}|dictsort(true)", "{'b': 1, 'A': 2}|dictsort(false, 'value')", "{'b': 1, 'A': 2}|dictsort(by='value', reverse=true)",
    "'type' in schema", "'zip' not in schema", "schema is mapping", "schema is iterable", "schema is sequence", "schema.keys() is sequence", "schema.items() is iterable", "schema.items() is mapping", "schema == {}", "{'a': 1, 'b': 2} == {'b': 2, 'a': 1}", "{'a': 1}|tojson", "schema|tojson", "schema|tojson(indent=2)", "schema|tojson(2)", "schema|tojson(sort_keys=true)", "schema|tojson(separators=(',', ':'))", "schema|tojson(indent=1, separators=(',', ': '), sort_keys=true)", "schema|tojson(ensure_ascii=true)", "schema|tojson(true)", "schema|tojson(false, 4)", "schema|tojson(indent='--')", "schema|tojson(indent=0)", "schema|tojson(indent=none)", "'é</script>\\n\\u2028\\x7f\\x01'|tojson", "'é😀'|tojson(ensure_ascii=true)",
    "1e-05|tojson", "1e16|tojson", "1.0|tojson", "1e100|tojson", "123456789012345678901234567890|tojson", "none|tojson", "true|tojson", "[1e-7, 2.5e-07, 0.1, 1e22, 100.0]|tojson", "{1: 'a', none: 'b', true: 'c', 2.5: 'd'}|tojson", "[]|tojson(indent=2)", "{}|tojson(indent=2)", "[[], {}]|tojson(indent=2)", "undefined_name|tojson", "(1, (2,))|tojson(indent=1)", "{'b': 1, 'a': {'d': 2, 'c': 3}}|tojson(sort_keys=true, separators=(',', ':'))", "[1, 2]|tojson(separators=('; ', '='))", "{'a': [1]}|tojson(indent=2, separators=(',', ':'))", "'a/b\"c\\\\d'|tojson",
    "schema.b.x[2] is none", "schema['b']['x'][1]", "schema.nothing.more", "schema.nothing is undefined", "schema.items is defined", "{'items': [1]}.items", "{'items': [1]}['items']", "{'keys': 1}.keys", "{'get': 1}.get('get')", "schema|pprint", "schema|string", "{'a': 1}.update({'b': 2})", "{'a': 1}.pop('a')", "{'a': 1}.copy()", "{'a': 1}.setdefault('a', 2)", "{'a': 1, 'b': 2}|map('upper')|list", "{'a': 1, 'b': 2}|join(',')", "{'a': 1, 'b': 2}|reverse|list", "{'a': 1}|xmlattr", "{'a': none, 'b': 'x y'}|xmlattr(false)", "{'q': 'a b', 'r': 1}|urlencode", "'a b/ü&'|urlencode", "schema|attr('type') is undefined", "text|attr('upper') is defined", "{'a': {'b': 1}}|items|list", "none|items|list", "undefined_name|items|list", "{(1, 2): 'x'}", "{'a': 1}.a.b is undefined", "{'x': 1}|count", "{'a': 1} is sameas {'a': 1}", "{'a': 1} + {'b': 2}", "{**{'a': 1}}", "dict(**{'a': 1})",
]
TESTS = ["defined", "undefined", "none", "boolean", "true", "false", "number", "integer", "float", "string", "sequence", "mapping", "iterable", "callable", "lower", "upper", "odd", "even", "escaped", "in [1, 'a', none]", "eq 1", "ne 1", "sameas none", "sameas true"]
VALUES = ["none", "true", "false", "0", "1", "1.0", "2.5", "''", "'a'", "'AB'", "[]", "[1]", "()", "{}", "{'a': 1}", "undefined_name"]
ITERATORS = ["range(2)", "range", "schema.keys()", "numbers|map('string')"]
FILTERS = ["length", "list", "string", "first", "last", "reverse|list", "join(',')", "upper", "trim", "int", "float", "abs", "default('d')", "default('d', true)", "d('x', boolean=true)", "default(default_value='v')", "tojson", "title", "capitalize", "escape", "e", "safe", "forceescape", "sort|list", "unique|list", "sum", "items|list", "dictsort", "indent", "wordcount", "center(6)", "replace('a', 'b')", "truncate(3)", "striptags", "urlencode", "pprint", "min", "max", "map('string')|list", "select|list", "count", "bool"]
TEXT_FILTERS = [
    "'a\\nb\\n\\nc'|indent", "'a\\nb\\n\\nc'|indent(2)", "'a\\nb\\n\\nc'|indent(2, true)", "'a\\nb\\n\\nc'|indent(width=2, first=true, blank=true)", "'a\\nb'|indent('> ')", "'a\\nb\\n'|indent(1) ~ '|'", "'a\\n'|indent(2, blank=true) ~ '|'", "'Hello brave new world'|truncate(11)", "'Hello brave new world'|truncate(11, true)", "'Hello brave new world'|truncate(11, false, '..', 0)", "'Hello brave new world'|truncate(length=11, killwords=true, end='>', leeway=2)", "'Hello brave new world'|wordwrap(7)", "'abcdefghij klm'|wordwrap(4, false)", "'abcdefghij'|wordwrap(width=4, wrapstring='/')", "'x'|center(5) ~ '|'", "'x'|center(4) ~ '|'", "'hello wORLD foo-bar'|title", "'hELLO'|capitalize", "' x '|trim ~ '|'", "'xxaxx'|trim('x')", "'aXbX'|replace('X', 'y')", "'aXbX'|replace('X', 'y', 1)", "'aXbX'|replace('X', 'y', count=1)", "'<b>x</b> & y'|striptags", "'<a & \"b\" \\'c\\'>'|escape", "'<a>'|e ~ '<b>'", "'<a>'|safe", "'<a>'|safe|upper", "'a b'|wordcount", "text|upper|lower|title", "text|list|first", "text|length > 3", "text|default('x')|upper", "undefined_name|default('x')", "undefined_name|d", "none|default('x')", "none|default('x', true)", "''|default('x', true)", "text|replace(',', '')|trim", "text|upper()|lower", "text|nosuch", "text is nosuch", "text|filter is undefined", "'http://a.de x'|urlize", "'%s'|format('a')", "'a'|string is string", "text is lower", "'abc' is lower", "'ABC' is upper", "text is filter", "'upper' is filter", "'nosuch' is filter", "'odd' is test", "'x' is test", "text|e", "[1, 2]|e", "'a,b'|split(',') is defined", "'a'|lower|e|upper", "'\\n'|trim|length", "text|batch(5)|map('join')|list", "'aé'|urlencode", "'ab'|random in 'ab'", "'3 apples'|int", "'42abc'|int(-1)", "' 42 '|int", "'1_000'|int", "'1e3'|float", "'inf'|float", "'1,5'|float(0.5)",
]
LOGIC = [
    "1 if yes else 2", "1 if not yes", "1 if yes", "(1 if not yes) is undefined", "yes and 'x'", "nothing or 'y'", "none and 1", "0 or none or []", "not none", "not not 'a'", "not 1 == 2", "1 and 2 or 3", "'a' if 0 else 'b' if 0 else 'c'", "yes is true", "nothing is none", "nothing is not none", "undefined_name is defined and undefined_name.x", "undefined_name", "undefined_name.x", "undefined_name['x']", "undefined_name()", "undefined_name + 1", "undefined_name ~ 'x'", "undefined_name == none", "undefined_name == undefined_other", "undefined_name|length", "undefined_name in [1]", "1 in undefined_name", "'a' in none", "undefined_name|list", "undefined_name and 1", "not undefined_name", "-undefined_name", "none + 1", "'a' + 1", "1 + 'a'", "[1] + 'a'", "none.x", "none.x is undefined", "none['x'] is undefined", "(1).x is undefined", "true.x is undefined", "none|length", "none|list", "none|first", "none is iterable and none|length > 0", "1 == true", "'1' == 1", "1 != 1.0", "'a' < 'b' < 'c'", "1 < 2 and 2 < 3", "1 in [1] and 2 not in [1]", "'a' ~ 1 + 2", "1 + 2 ~ 'a'", "1 ~ 2 * 3", "-1 ** 2", "-1|abs", "(-1)|abs", "2 * 3 ** 2", "10 - 2 - 3", "2 + 3 if yes else 4", "[1, 2][1] + 1", "{'a': [1, 2]}['a'][1]", "text.upper().lower().split(',')[0]", "text[0:5].upper()", "(text ~ '!')|length", "text|upper == 'HELLO, WORLD'", "text is string and text|length > 3", "yes is boolean", "1 is number and 1 is not float", "none is none is true", "loop is undefined", "True and False", "None is none", "TRUE is undefined", "lipsum is defined", "cycler('a', 'b').next()", "joiner(',') is defined", "namespace(a=1).a", "namespace({'a': 2}, b=3).b", "namespace() is mapping", "range is callable", "text.upper is callable", "text.nosuch is callable", "dict is callable", "(1, 2)[0]", "(1, 2) == (1, 2)", "(1, 2) in [(1, 2)]", "1 if yes else undefined_name.x.y", "'x' if undefined_name else 'y'", "'x' if nothing is not none and nothing.y else 'z'", "people[0].name", "people[-1]['town']['name']", "people[0].town.name[0]", "people|first|attr('name') is undefined", "(people|first).name", "(people|last)['name']", "people[1:]|map(attribute='name')|list", "people[0].keys()|list", "1 is eq 1", "1 is eq(1)", "1 is equalto 1 and yes", "1 is in [1, 2]", "3 is not in [1, 2]", "2 is lt 3", "2 is ge 2", "2 is greaterthan 1", "2 is gt 1", "not yes is false", "yes is not false", "1 is divisibleby 1 or false", "[] or 'e'", "{} and 1", "'' or none", "[0]|first or 'z'", "yes|string", "none|string", "[none]|first|string", "(none, )|string",
]
STATEMENTS = [
    "{% for x in numbers %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }};{% endfor %}",
    "{% for x in numbers %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}",
    "{% for x in numbers %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }} {% endfor %}",
    "{% for x in numbers %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x) }}{% endfor %}",
    "{% for x in numbers if x > 1 %}{{ loop.index }}:{{ x }} {% else %}none{% endfor %}",
    "{% for x in [] %}x{% else %}empty{% endfor %}", "{% for x in undefined_name %}x{% else %}empty{% endfor %}", "{% for x in none %}x{% endfor %}", "{% for x in 5 %}x{% endfor %}",
    "{% for x in 'abc' %}{{ x }}-{% endfor %}", "{% for k in schema %}{{ k }},{% endfor %}", "{% for k, v in schema.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k, v in schema|items %}{{ k }};{% endfor %}", "{% for k, v in schema|dictsort %}{{ k }}{{ loop.last }};{% endfor %}",
    "{% for a, b in [(1, 2), [3, 4]] %}{{ a }}{{ b }};{% endfor %}", "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for a, b in [(1, 2, 3)] %}x{% endfor %}", "{% for x in range(3) %}{% for y in range(2) %}{{ loop.index }}{{ x }}{{ y }} {% endfor %}{{ loop.index }}{% endfor %}",
    "{% for x in numbers %}{% if loop.index == 2 %}{% continue %}{% endif %}{% if loop.index == 4 %}{% break %}{% endif %}{{ x }}{% endfor %}", "{% for x in numbers %}{% set outer = loop %}{% for y in [1] %}{{ outer.index }}{% endfor %}{% endfor %}",
    "{% for n in tree recursive %}{{ n.v }}{% if n.kids %}({{ loop(n.kids) }}){% endif %}{{ loop.depth }} {% endfor %}", "{% set x = 1 %}{% for i in [1, 2] %}{% set x = i + 5 %}{{ x }}{% endfor %}{{ x }}", "{% if yes %}{% set z = 4 %}{% endif %}{{ z }}", "{% set ns = namespace(n=0) %}{% for i in numbers %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "{% set ns = namespace(l=[]) %}{% for i in numbers %}{% set ns.l = ns.l + [i * 2] %}{% endfor %}{{ ns.l }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a = 1, 2 %}{{ a }}", "{% set a, b = [3, 4] %}{{ b }}{{ a }}", "{% set (a, b) = (1, 2) %}{{ a }}", "{% set x %}block {{ 1 + 1 }}{% endset %}{{ x }}|{{ x|length }}", "{% set x | upper %}block{% endset %}{{ x }}", "{% set x | replace('b', 'c') | trim %} block {% endset %}{{ x }}", "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}", "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q is defined }}", "{% filter upper %}shout {{ text }}{% endfilter %}", "{% filter replace('a', 'b')|trim %} aa {% endfilter %}|",
    "{% macro m(a, b=2, c='x') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}|{{ m(1, c='y') }}|{{ m(1, 3, 'z') }}|{{ m(a=9) }}", "{% macro m(a) %}[{{ a }}]{% endmacro %}{{ m() }}", "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}", "{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, k=4) }}", "{% macro m() %}{{ caller() }}!{% endmacro %}{% call m() %}hi{% endcall %}", "{% macro m() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b) m() %}{{ a }}+{{ b }}{% endcall %}", "{% macro m(x) %}{{ x }}{% if caller is defined %}{{ caller() }}{% endif %}{% endmacro %}{{ m(1) }}{% call m(2) %}c{% endcall %}", "{% macro m(a, b=1) %}{% endmacro %}{{ m.name }}{{ m.arguments }}{{ m.catch_kwargs }}{{ m.catch_varargs }}{{ m.caller }}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{% endmacro %}{{ m(z=2) }}", "{% macro fact(n) %}{% if n > 1 %}{{ n }}*{{ fact(n - 1) }}{% else %}1{% endif %}{% endmacro %}{{ fact(5) }}", "{% macro m() %}{{ text }}{% endmacro %}{{ m() }}", "{% set v = 1 %}{% macro m() %}{{ v }}{% endmacro %}{% set v = 2 %}{{ m() }}", "{% macro m() %} x {% endmacro %}{{ m()|trim }}|{{ m()|upper }}|{{ m() is string }}|{{ m() ~ m() }}", "{% macro m(a) %}{{ a|upper }}{% endmacro %}{{ words|map('upper')|join }}{{ m('q') }}", "{% macro a() %}A{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}", "{% macro m(items) %}{% for i in items %}{{ i }}{% if not loop.last %},{% endif %}{% endfor %}{% endmacro %}{{ m(numbers) }}", "{% macro m(a, b, c) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(*[1, 2], **{'c': 3}) }}", "{% macro f(n) %}{% if n > 0 %}({{ f(n - 1) }}){% endif %}{% endmacro %}{{ f(90)|length }}", "{% macro f(n) %}{% for i in [n] %}{% if n > 0 %}({{ f(n - 1) }}){% endif %}{% endfor %}{% endmacro %}{{ f(120)|length }}", "{% macro m(a=[]) %}{{ a|length }}{% endmacro %}{{ m() }}{{ m([1]) }}", "{% macro m(a=none) %}{{ a is none }}{% endmacro %}{{ m() }}", "{% macro m() %}{% set ns = namespace(x=1) %}{% set ns.x = 2 %}{{ ns.x }}{% endmacro %}{{ m() }}", "{% macro m() -%}\n  tight\n{%- endmacro %}[{{ m() }}]",
    "{% for k, v in schema.items() %}{{ k }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }};{% endfor %}", "{% for k in schema.keys() %}{{ loop.last }}{{ loop.length }}{% endfor %}", "{% for v in schema.values() %}{{ loop.last }}{{ loop.length }}{% endfor %}", "{% for k, v in schema|items %}{{ loop.last }}{{ loop.revindex }}{% endfor %}", "{% for k in schema %}{{ loop.last }}{% endfor %}",
    "{% if 0 %}a{% elif yes %}b{% else %}c{% endif %}", "{% if 0 %}a{% elif 0 %}b{% else %}c{% endif %}", "{%- if yes -%}  x  {%- endif -%}  y", "a  {%- if yes %} b {% endif -%}  c", "  {% if yes %}\n  x\n  {% endif %}\ny", "  {%+ if yes %}\n  x\n  {% endif +%}\ny", "a\n  {{ text }}  \nb\n", "a\n{# c #}\nb", "a {# c -#}  b", "  {# c #}  \nx", "a\n  {#- c #}\nb", "{% raw %}{{ x }}{% y %}{% endraw %}", "{% raw -%}  {{ x }}  {%- endraw %}|", "{% raw %}\n  x\n{% endraw %}\ny", "{{ '{{' }}{{ '%}' }}{{ \"}}\" }}", "{{ text }}\n", "{{ text }}\n\n", "\n{{ text }}", "{{- text -}}  x", "x  {{- text }}", "{%- set x = 1 %}\n{%- set y = 2 %}\n{{ x + y }}", "{% set x = 1 -%}\n\n  {{ x }}", "a\r\n{% if yes %}\r\nb\r\n{% endif %}\r\nc\r\n", "a\rb{% if yes %}\rc{% endif %}", "a\r\n\r\n{{ text }}\r\n", "{{ 'x\r\ny'|length }}", "{{ 'x\ny' }}", "tab\t{% if yes %}\n\tx\n\t{% endif %}\n", "{% if yes %}x{% endif %}\n\n{% if yes %}y{% endif %}\n", "{{ text\n  | upper\n  }}", "{% for x in\n  numbers %}{{ x }}{% endfor\n%}", "{{ [1,\n2,] }}{{ {'a': 1,} }}{{ (1,\n) }}", "{% if yes %}{% if nothing %}a{% else %}b{% endif %}{% endif %}",
    "{% block title %}T{% endblock %}{{ self.title() }}", "{% block a %}x{% block b %}y{% endblock b %}{% endblock a %}", "{% for x in numbers %}{% block c scoped %}{{ x }}{% endblock %}{% endfor %}", "{% set q = 1 %}{% block d %}{{ q }}{{ text }}{% endblock %}", "{% block a required %}{% endblock %}", "{% if nothing %}{% include 'x' %}{% import 'y' as z %}{% from 'y' import q as r %}{% endif %}ok", "{% if nothing %}{% include 'x' ignore missing with context %}{% endif %}ok", "{% include 'x' %}", "{% include 'x' ignore missing %}ok", "{% include ['x', 'y'] ignore missing %}ok", "{% if nothing %}{% extends 'x' %}{% endif %}ok", "{% extends 'x' %}", "{% import 'x' as y %}", "{% from 'x' import y %}", "{% autoescape true %}{{ '<' }}{% endautoescape %}", "{% autoescape false %}{{ '<' }}{% endautoescape %}", "{% do 1 %}", "{% set x = 1 %}{{ x }}{% set x = x + 1 %}{{ x }}", "{% generation %}x{{ text }}{% endgeneration %}", "{%- generation -%}  x  {%- endgeneration -%}  y", "{% for x in [1] %}{% generation %}{{ x }}{% endgeneration %}{% endfor %}", "{% break %}", "{% unknown %}", "{% if %}", "{% endif %}", "{{ }}", "{{ 1 2 }}", "{{ 'a }}", "{% for x in %}{% endfor %}", "{{ text | }}", "{{ text. }}", "{% if yes %}", "{{ (1 }}", "{{ 1 + }}", "{# open", "{% set 1 = 2 %}", "{% set none = 2 %}", "{% set loop = 2 %}{{ loop }}", "{% macro %}{% endmacro %}", "{{ a b }}", "{{ raise_exception('no') }}", "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.next() }}{% set _ = c.reset() %}{{ c.next() }}", "{% set j = joiner('; ') %}{% for x in numbers %}{{ j() }}{{ x }}{% endfor %}", "{% set j = joiner() %}{{ j() }}{{ j() }}", "{% set x = [] %}{% set _ = x.append(1) %}{{ x }}", "{% set d = {} %}{% set _ = d.update({'a': 1}) %}{{ d }}", "{% set l = [1, 2] %}{% set l = l + [3] %}{{ l[::-1] }}", "{% for i in range(3) %}{{ i }}{{ ',' if not loop.last }}{% endfor %}", "{% for m in people if m.age > 10 %}{{ m.name }}{{ loop.length }} {% endfor %}", "{% for g in people|groupby('age') %}{{ g.grouper }}:{{ g.list|length }} {% endfor %}", "{% for age, list in people|groupby('age') %}{{ age }}:{{ list|map(attribute='name')|join('+') }} {% endfor %}", "{% for row in numbers|batch(2) %}{{ row|join(' ') }};{% endfor %}", "{% for x in numbers|reverse %}{{ x }}{% endfor %}", "{% for x in numbers[::-1] %}{{ loop.index0 }}{{ x }}{% endfor %}", "{% for x in numbers|sort|unique %}{{ x }}{{ loop.last }}{% endfor %}", "{% for x in numbers|map('string') %}{{ x }}{{ loop.length }}{% endfor %}", "{% for line in 'a\\nb'.split('\\n') %}{{ loop.index }}{{ line }}{% endfor %}", "{% for x in (1, 2) %}{{ x }}{% endfor %}{{ x is defined }}", "{% set loop_count = 0 %}{% for x in numbers %}{% set loop_count = loop_count + 1 %}{% endfor %}{{ loop_count }}", "{% set messages = [1] + [2] %}{{ messages }}", "{% if not (yes and nothing) %}x{% endif %}", "{% if (text is string) and (text|length) %}x{% endif %}", "{% if 'Hello' in text and 'x' not in text %}x{% endif %}", "{{ text if text is string else text|tojson }}", "{{ namespace }}" if False else "{{ 1 }}", "{{ loop }}", "{% for x in [1] %}{{ loop is defined }}{% endfor %}", "{% set ns = namespace() %}{{ ns.x is defined }}{% set ns.x = 1 %}{{ ns.x }}", "{% set x = {'a': {'b': 1}} %}{% set x.a = 1 %}", "{% set k = 'type' %}{{ schema[k] }}", "{{ schema[nothing] is undefined }}", "{{ people[0]['na' ~ 'me'] }}", "{{ words[numbers[0] - 1] }}", "{{ strftime_now('%Y-%m-%d') }}", "{{ strftime_now('%d %b %Y, %H:%M:%S %A %a %B %p %I %y %j %-d %-m %e %% %U %W %u %w %c %x %X %D %R %r %n%t %h %k %l') }}", "{{ strftime_now is defined }}", "{{ strftime_now('ü%Y') }}",
]

# What docs/templates.md names as different.
DIFFERENT = re.compile(
    r"\{ \[?1e-?\d+\]? ~|ΑΣ'\.(title|swapcase|casefold)|'\{(!r|:%)|\\N\{|'x'\['upper'\]|%a'|\|(random|pprint|urlize|attr)|lipsum"
    r"|bit_length|'multiply'|dict\(\[|\.(keys|items|values)\(\) (\}|is sequence)|schema\.items is|namespace\(\{|namespace\(\) is"
    r"|(range|range\(2\)|\}|schema\.keys\(\)|map\('string'\)) is (lower|sequence)|^\{\{ (false|0)\|(map|select)|^\{\{ range\(3\) \}"
    r"|self\.title|a required|varargs|catch_kwargs|set loop =|'%s' % \('a', 'b'\)|1 < 'a'|\[none, 1\]\|sort|\[1, 'a'\]\|sort|'a,b'\|split|is none is"
    r"|in none %|ignore missing %"
)


def main():
    env = environment()
    templates = ["{{ [%s.%s] }}" % pair for pair in itertools.product(STRINGS, METHODS) if "~" not in pair[1]]
    templates += ["{{ %s.%s }}" % pair for pair in itertools.product(STRINGS[:4], METHODS) if "~" in pair[1]]
    expressions = EDGE_STRINGS + FORMATS + NUMBERS + LISTS + DICTS + TEXT_FILTERS + LOGIC
    templates += ["{{ %s }}" % e for e in expressions]
    products = ["{{ %s is %s }}" % pair for pair in itertools.product(VALUES + ITERATORS, TESTS)]
    products += ["{{ %s|%s }}" % pair for pair in itertools.product(VALUES, FILTERS)]
    lines = [{"variables": VARIABLES}]
    for template in dict.fromkeys(templates + products + STATEMENTS):
        line = {"template": template}
        try:
            line["prompt"] = env.from_string(template).render(messages=[], tools=None, **VARIABLES)
        except Exception:  # Python's own errors pass through Jinja.
            if template in products:
                continue
            line["error"] = True
        if " at 0x" not in line.get("prompt", "") and not DIFFERENT.search(template):
            lines.append(line)
    path = pathlib.Path(__file__).with_name("jinja.jsonl")
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


if __name__ == "__main__":
    main()
