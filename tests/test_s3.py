from __future__ import annotations


def test_the_server_keeps_what_it_is_given(s3_server):
    uri = s3_server.make_bucket("kept")
    client = s3_server.client()
    client.put_object(Bucket="kept", Key="a/b", Body=b"bytes")
    assert uri == "s3://kept"
    assert client.get_object(Bucket="kept", Key="a/b")["Body"].read() == b"bytes"
