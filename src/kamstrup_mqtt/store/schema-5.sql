-- What is set belongs to a meter, and outputs note all that they got; the fifth version of the file.
DROP INDEX IF EXISTS meter_nameless;
CREATE INDEX IF NOT EXISTS meter_name ON meter (name);
-- What was set at run time for a meter, such as its interval.
CREATE TABLE setting_5 (
    meter INTEGER NOT NULL REFERENCES meter,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (meter, name)
) WITHOUT ROWID;
-- The readouts behind the cursor of an output that it has got all the same.
CREATE TABLE ahead (
    output TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (output, sequence)
) WITHOUT ROWID;
