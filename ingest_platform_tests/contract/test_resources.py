def test_all(s3_server, s3_https_server, redis_url, weaviate_endpoint, fresh_database, chromium_path):
    import urllib.request
    for s in (s3_server, s3_https_server):
        b = s.fresh_bucket(public=True)
        s.client().put_object(Bucket=b, Key="a/b", Body=b"x")
        print(s, b)
    print(urllib.request.urlopen(f"{s3_server.endpoint}/{s3_server.fresh_bucket(public=True)}?list-type=2").read())
    print(redis_url, weaviate_endpoint)
