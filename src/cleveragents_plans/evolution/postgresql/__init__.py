"""Operations for PostgreSQL tables in use: short locks, small batches, scans that block no one."""
