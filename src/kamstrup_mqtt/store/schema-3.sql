-- What was set at run time for a meter, such as its interval; the third version of the file.
CREATE TABLE setting (
    meter TEXT NOT NULL,  -- its configured name
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (meter, name)
) WITHOUT ROWID;
