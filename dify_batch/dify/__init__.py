"""The service API of Dify: client, protocol (pure), server-sent events, transport, proxies."""
