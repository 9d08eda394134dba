/**
 * FRR beside the agent in a gateway pod: its ConfigMap, the Secret with the password, the container, and what the pod has for
 * it. Pure.
 *
 * `docs/bgp.md` says in which order the two end. The container's image is that of images/frr.
 */
import type { BgpNeighbour, BgpPolicy } from '../policy/model.ts';
import { renderFrr } from './frr.ts';
import { type Gateway, RenderError } from './gateway.ts';
import { type Hash, objectName } from './names.ts';

/** Where FRR's daemons have their sockets, for the agent and vtysh. */
const RUN = '/var/run/frr';
const SECRET_DIRECTORY = '/etc/veg-frr/secret';
const SECRET_KEY = 'password';
/** FRR 10.3 takes about 60 MiB, most of it mapped; its sockets and files a few KiB. */
const RESOURCES = { requests: { cpu: '50m', memory: '64Mi' }, limits: { memory: '128Mi' } };
const RUN_SIZE = '16Mi';
/** Sockets on the file system, but no telnet. */
const OPTIONS = '-A 127.0.0.1 -P 0';
const START = '/usr/libexec/veg-frr/start';

const VOLUME = { config: 'frr-config', run: 'frr-run', secret: 'frr-secret' };

/** What a pod needs for FRR. */
export interface FrrParts {
  /** The ConfigMap, and the Secret where there is a password. */
  resources: object[];
  container: object;
  volumes: object[];
  /** The agent's mount of FRR's sockets. */
  agentMount: object;
  /** A change of the configuration replaces the pods, one by one. */
  annotations: Record<string, string>;
  hasSecret: boolean;
}

/** `metadata` without the name: that of all resources of the gateway. */
export interface FrrOptions {
  image: string;
  metadata: { namespace: string; labels: Record<string, string> };
  /** The user and group of the agent and of FRR. */
  user: number;
  hash: Hash;
}

/** The parts; `gateway.policy` has `bgp`. Throws `RenderError`. */
export function frrParts(gateway: Gateway, bgp: BgpPolicy, options: FrrOptions): FrrParts {
  const { metadata, hash } = options;
  const name = objectName(`${gateway.workload}-frr`, hash);
  const password = passwordOf(bgp.neighbours);
  const data = files(gateway, bgp);
  const named = { ...metadata, name };
  return {
    resources: [
      { apiVersion: 'v1', kind: 'ConfigMap', metadata: named, data },
      ...(password === undefined
        ? []
        : [
            {
              apiVersion: 'v1',
              kind: 'Secret',
              metadata: named,
              type: 'Opaque',
              stringData: { [SECRET_KEY]: password },
            },
          ]),
    ],
    container: container(options, password !== undefined),
    volumes: [
      { name: VOLUME.config, configMap: { name } },
      { name: VOLUME.run, emptyDir: { medium: 'Memory', sizeLimit: RUN_SIZE } },
      ...(password === undefined
        ? []
        : [{ name: VOLUME.secret, secret: { secretName: name, defaultMode: 0o400 } }]),
    ],
    agentMount: { name: VOLUME.run, mountPath: RUN, readOnly: true },
    annotations: { 'veg-agent.io/frr-config': hash(JSON.stringify(data)).slice(0, 16) },
    hasSecret: password !== undefined,
  };
}

/** A BgpConf has one password for all neighbours. */
function passwordOf(neighbours: readonly BgpNeighbour[]): string | undefined {
  const passwords = new Set(
    neighbours.flatMap(({ password }) =>
      password !== undefined && 'text' in password ? [password.text] : [],
    ),
  );
  if (passwords.size > 1) throw new RenderError('the neighbours have different passwords');
  return [...passwords][0];
}

/** /etc/frr. A password is there by the name of its file, which the container's start reads. */
const files = (gateway: Gateway, { neighbours }: BgpPolicy): Record<string, string> => ({
  'frr.conf': renderFrr(gateway.policy, {
    acceptDefault: false,
    passwordOf: ({ password }) => password && `@${SECRET_DIRECTORY}/${SECRET_KEY}@`,
  }),
  daemons: [
    ...['zebra=yes', 'bgpd=yes', `bfdd=${neighbours.some(({ bfd }) => bfd) ? 'yes' : 'no'}`],
    ...['zebra', 'bgpd', 'bfdd'].map((daemon) => `${daemon}_options="${OPTIONS}"`),
    // It logs files of other daemons that it does not find as errors.
    `mgmtd_options="${OPTIONS} --log-level critical"`,
  ]
    .map((line) => `${line}\n`)
    .join(''),
  'vtysh.conf': 'service integrated-vtysh-config\n',
});

/**
 * FRR's daemons end unless they get each of these capabilities. They use SYS_ADMIN for VRFs that are network namespaces, of
 * which there are none.
 */
const CAPABILITIES = ['NET_ADMIN', 'NET_BIND_SERVICE', 'NET_RAW', 'SYS_ADMIN'];

const container = ({ image, user }: FrrOptions, hasSecret: boolean): object => ({
  name: 'frr',
  image,
  command: [START],
  // The agent withdraws first; FRR passes that on before it ends.
  lifecycle: { preStop: { exec: { command: [START, 'withdraw'] } } },
  resources: RESOURCES,
  // allowPrivilegeEscalation: false disables file capabilities (docs/image.md).
  securityContext: {
    runAsUser: user,
    runAsGroup: user,
    runAsNonRoot: true,
    readOnlyRootFilesystem: true,
    allowPrivilegeEscalation: true,
    capabilities: { drop: ['ALL'], add: CAPABILITIES },
  },
  volumeMounts: [
    { name: VOLUME.config, mountPath: '/etc/frr', readOnly: true },
    { name: VOLUME.run, mountPath: RUN },
    ...(hasSecret ? [{ name: VOLUME.secret, mountPath: SECRET_DIRECTORY, readOnly: true }] : []),
  ],
});
