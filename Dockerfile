# docker build -t pictofs .
# docker run -d --name picto --restart unless-stopped --device /dev/fuse --cap-add SYS_ADMIN \
#     --security-opt apparmor=unconfined -v /etc/pictofs/key:/run/secrets/pictograph_api_key:ro \
#     -v picto-cache:/var/cache/pictofs -v /srv/pictofs:/mnt:rshared \
#     pictofs mount --foreground --allow-other --api-key-file /run/secrets/pictograph_api_key /mnt/picto
# mounts at /srv/pictofs/picto (make that folder first) for everybody on the machine; `docker stop` unmounts.
# docs/howto.md says more.

FROM debian:12-slim AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libfuse3-dev pkg-config python3-dev python3-venv
COPY . /src
RUN python3 -m venv /opt/pictofs \
    && /opt/pictofs/bin/pip install --no-cache-dir /src

FROM debian:12-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates fuse3 python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/pictofs /opt/pictofs
RUN ln -s /opt/pictofs/bin/pictofs /usr/local/bin/pictofs \
    && ln -s /opt/pictofs/bin/mount.pictofs /sbin/mount.pictofs \
    && mkdir /mnt/picto
ENV PICTOFS_CACHE_DIR=/var/cache/pictofs
VOLUME /var/cache/pictofs
ENTRYPOINT ["pictofs"]
CMD ["mount", "--foreground", "--allow-other", "/mnt/picto"]
