"""A certificate that names images.example.com, with its key; good for tests alone, until 2126.

Made by: openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500
-subj /CN=images.example.com -addext subjectAltName=DNS:images.example.com,DNS:b.example.com
"""

CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBwDCCAWagAwIBAgIUfPNeJHgBXghWUWXxCM/ZdrSrfmgwCgYIKoZIzj0EAwIw
HTEbMBkGA1UEAwwSaW1hZ2VzLmV4YW1wbGUuY29tMCAXDTI2MTEyNjEzNDkyN1oY
DzIxMjYxMTAyMTM0OTI3WjAdMRswGQYDVQQDDBJpbWFnZXMuZXhhbXBsZS5jb20w
WTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATmMXZ/hNC1oN5S7jfXX37G4MxZlxQw
Mq8WKmUQiSH9qpLiV6AWvo+sn1p7wNROGlh+bR6VdBDtQi62rAzI6eKko4GBMH8w
HQYDVR0OBBYEFLXBflvUwIIZd7oo3coxwzXipFFEMB8GA1UdIwQYMBaAFLXBflvU
wIIZd7oo3coxwzXipFFEMA8GA1UdEwEB/wQFMAMBAf8wLAYDVR0RBCUwI4ISaW1h
Z2VzLmV4YW1wbGUuY29tgg1iLmV4YW1wbGUuY29tMAoGCCqGSM49BAMCA0gAMEUC
IBqf2P/bvQgr2ZaWXWXZKiKJpn3rfmBwhomFbh/U1E6jAiEA/NV+jaeEu+qQDTxv
kC4NytRQ7QQeySxTDiRqbooKZDE=
-----END CERTIFICATE-----
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgMh1PcRnVzxBKybzH
Zgw4Vyvu7zaqmjNZCnx/uxIXp36hRANCAATmMXZ/hNC1oN5S7jfXX37G4MxZlxQw
Mq8WKmUQiSH9qpLiV6AWvo+sn1p7wNROGlh+bR6VdBDtQi62rAzI6eKk
-----END PRIVATE KEY-----
"""
