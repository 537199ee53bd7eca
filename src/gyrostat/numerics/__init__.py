"""Mathematics without modules: functions of tensors, no parameters, no files."""
