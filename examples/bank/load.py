"""A bank's complaints from a CSV file into a new SQLite database: `python3 load.py complaints.csv complaints.db`."""

import csv
import sqlite3
import sys
from contextlib import closing


def load(source: str, database: str) -> int:
    """Rows that were loaded."""
    with open(source, encoding="utf-8", newline="") as file, closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE complaints (number INTEGER PRIMARY KEY, customer TEXT, text TEXT, label TEXT)")
        rows = [(row["customer"], row["text"], row["label"]) for row in csv.DictReader(file)]
        connection.executemany("INSERT INTO complaints (customer, text, label) VALUES (?, ?, ?)", rows)
        connection.commit()
    return len(rows)


if __name__ == "__main__":
    print(f"{load(sys.argv[1], sys.argv[2])} complaints")
