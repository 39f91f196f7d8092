"""A database that counts.

`write FILE`: adds one row a transaction for as long as it lives, and prints each number once it is
committed. `check FILE`: prints how many rows there are, if the database is whole and has no gaps.
"""

import sqlite3
import sys


def write(path):
    database = sqlite3.connect(path, isolation_level=None)
    # "full" leaves the end of a commit, which deletes the journal, to a later sync of the directory.
    database.execute("pragma synchronous = extra")
    database.execute("create table if not exists counts (number integer primary key, filler blob)")
    number = database.execute("select coalesce(max(number), 0) from counts").fetchone()[0]
    while True:
        number += 1
        database.execute("begin immediate")
        database.execute("insert into counts values (?, randomblob(2000))", (number,))
        # Pages of all ages are written again.
        database.execute("update counts set filler = randomblob(1500) where number = ?", (number // 2,))
        database.execute("commit")
        print(number, flush=True)


def check(path):
    database = sqlite3.connect(path)
    whole = database.execute("pragma integrity_check").fetchall()
    if whole != [("ok",)]:
        sys.exit(f"not whole: {whole[:5]}")
    rows, last = database.execute("select count(*), coalesce(max(number), 0) from counts").fetchone()
    if rows != last:
        sys.exit(f"{rows} rows up to {last}")
    print(rows)


{"write": write, "check": check}[sys.argv[1]](sys.argv[2])
