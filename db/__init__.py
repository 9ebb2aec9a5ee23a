"""What RenalCore keeps: records, files, accounts and the audit trail.

Every function takes a `Session` and never commits; `engine.session_scope` makes one transaction of one user action.
"""
