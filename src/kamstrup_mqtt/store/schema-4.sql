-- The serial number is the meter; the fourth version of the file.
-- What this history is called: a new one begins its numbers anew, and has another id.
CREATE TABLE history (id TEXT NOT NULL);
INSERT INTO history VALUES (lower(hex(randomblob(8))));
-- Where a readout comes from; see SOURCES in codec.py. 0 is live, 5 an import.
ALTER TABLE readout ADD COLUMN source INTEGER NOT NULL DEFAULT 0;
UPDATE readout SET source = 5 WHERE sequence <= 0;
-- The number of a live readout among those of its meter, without gaps; NULL for all others, and
-- for what an older version had delivered.
ALTER TABLE readout ADD COLUMN meter_sequence INTEGER;
-- One row a meter; `name` is a label, the configured name under which it was read last.
CREATE TABLE meter_4 (
    id INTEGER PRIMARY KEY,
    serial TEXT,  -- NULL for what was read under a name while nobody told a serial number
    name TEXT NOT NULL,
    identity TEXT NOT NULL,  -- what it says of itself
    rolled INTEGER,  -- the last hour that is rolled up; NULL before the first
    latest INTEGER,  -- its last live readout; NULL before the first
    last_sequence INTEGER NOT NULL DEFAULT 0  -- of its live readouts
);
CREATE TABLE doubt_4 (
    meter INTEGER PRIMARY KEY REFERENCES meter,
    after INTEGER NOT NULL,
    begin INTEGER NOT NULL,
    until INTEGER NOT NULL,
    newest INTEGER NOT NULL,
    earlier INTEGER NOT NULL,
    later INTEGER NOT NULL,
    believed INTEGER NOT NULL
);
-- The registers that a meter with this serial number and revision left out, and when (unix time).
CREATE TABLE lacking (
    serial TEXT NOT NULL,
    revision TEXT NOT NULL,  -- "" where it does not tell one
    register INTEGER NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (serial, revision, register)
) WITHOUT ROWID;
