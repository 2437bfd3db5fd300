/* sql: the constant set of SQL texts, by name; the texts are in sql.inc. No SQL is ever put
 * together at run time. Thread: any (constants). */
#pragma once

enum sql {
#define SQL(name, text) SQL_##name,
#include "storage/sqlite/sql.inc"
#undef SQL
    SQL_COUNT
};
