ALTER TABLE execution_rules ADD COLUMN seatbelt_policy TEXT;
