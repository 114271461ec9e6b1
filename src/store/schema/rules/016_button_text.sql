ALTER TABLE execution_rules ADD COLUMN event_detail_button_text TEXT;
