-- What the history of readouts looks like on disk; the first version of the file.
-- A layout says which register, name, unit and kind of value each column of a readout has, so that
-- a readout itself is little more than its digits.
CREATE TABLE layout (
    id INTEGER PRIMARY KEY,
    columns TEXT NOT NULL UNIQUE
);
CREATE TABLE meter (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    identity TEXT NOT NULL,
    UNIQUE (name, identity)
);
CREATE TABLE readout (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    meter INTEGER NOT NULL REFERENCES meter,
    layout INTEGER NOT NULL REFERENCES layout,
    taken INTEGER NOT NULL,  -- microseconds since 1970
    utc_offset INTEGER NOT NULL,  -- seconds
    digits TEXT NOT NULL
);
-- How far each output has got.
CREATE TABLE cursor (
    output TEXT PRIMARY KEY,
    sequence INTEGER NOT NULL
);
