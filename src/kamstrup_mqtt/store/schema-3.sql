-- Clocks that were wrong; the third version of the file.
-- Whether `taken` is from a clock that proved wrong: 0 no, 1 yes, 2 as far as is known by now.
ALTER TABLE readout ADD COLUMN misdated INTEGER NOT NULL DEFAULT 0;
DROP INDEX readout_taken;
CREATE INDEX readout_taken ON readout (meter, misdated, taken);
-- The last readout that was not imported, by order; NULL before the first.
ALTER TABLE meter ADD COLUMN latest INTEGER;
UPDATE meter SET latest =
    (SELECT max(sequence) FROM readout WHERE readout.meter = meter.id AND sequence > 0);
-- Where the clock was set back and it is open which readouts of a meter are dated right: see clock.py.
CREATE TABLE doubt (
    name TEXT PRIMARY KEY,
    after INTEGER NOT NULL,  -- the last sequence number before it was set back
    begin INTEGER NOT NULL,  -- the time of the first readout behind that
    until INTEGER NOT NULL,  -- the time of the last readout before it
    newest INTEGER NOT NULL,  -- the time of the last readout by now
    earlier INTEGER NOT NULL,  -- readouts before it that are dated later than `begin`
    later INTEGER NOT NULL,  -- readouts since
    believed INTEGER NOT NULL  -- 1: those since, 0: those before
);
-- What was set at run time for a meter, such as its interval.
CREATE TABLE setting (
    meter TEXT NOT NULL,  -- its configured name
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (meter, name)
) WITHOUT ROWID;
