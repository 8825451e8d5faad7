# docker build -t pictofs .
#
# It runs as the user 10001, who owns the mount point and reads the key:
#
# sudo install -d -o 10001 /srv/pictofs/picto
# sudo install -D -o 10001 -m 400 key /etc/pictofs/key
# docker run -d --name picto --restart unless-stopped --device /dev/fuse --cap-add SYS_ADMIN \
#     --security-opt apparmor=unconfined -v /etc/pictofs/key:/run/secrets/pictograph_api_key:ro \
#     -v picto-cache:/var/cache/pictofs -v /srv/pictofs:/mnt:rshared \
#     pictofs mount --foreground --allow-other --api-key-file /run/secrets/pictograph_api_key /mnt/picto
#
# mounts at /srv/pictofs/picto for everybody on the machine; `docker stop` unmounts. docs/howto.md says more,
# deploy/kubernetes how to do without SYS_ADMIN.

FROM debian:12-slim AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libfuse3-dev pkg-config python3-dev python3-venv
COPY . /src
RUN python3 -m venv /opt/pictofs \
    && /opt/pictofs/bin/pip install --no-cache-dir '/src[cluster]'

FROM debian:12-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates fuse3 python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/pictofs /opt/pictofs
COPY deploy/kubernetes/pictofs_fuse.py /usr/local/bin/pictofs-fuse
RUN ln -s /opt/pictofs/bin/pictofs /usr/local/bin/pictofs \
    && ln -s /opt/pictofs/bin/mount.pictofs /sbin/mount.pictofs \
    && chmod 755 /usr/local/bin/pictofs-fuse \
    && echo user_allow_other >> /etc/fuse.conf \
    && useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin pictofs \
    && install -d -o pictofs -g pictofs /mnt/picto \
    && install -d -m 700 -o pictofs -g pictofs /var/cache/pictofs
ENV PICTOFS_CACHE_DIR=/var/cache/pictofs
VOLUME /var/cache/pictofs
USER 10001:10001
ENTRYPOINT ["pictofs"]
CMD ["mount", "--foreground", "--allow-other", "/mnt/picto"]
