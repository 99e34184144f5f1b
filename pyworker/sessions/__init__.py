"""Sessions: requests of one client that belong together, until the session ends or expires.

store      the open sessions, and when they expire
views      the routes under `/session`
callbacks  notifies the model server of a session's end
"""
