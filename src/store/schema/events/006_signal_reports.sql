CREATE TABLE signal_reports (
    idx INTEGER PRIMARY KEY,
    report_data BLOB NOT NULL
);
