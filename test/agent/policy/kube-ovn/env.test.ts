// The policy from the environment that Kube-OVN gives to a gateway pod.
import t from 'tap';
import { formatError } from '../../../../agent/policy/error-text.ts';
import { policyFromEnv } from '../../../../agent/policy/kube-ovn/env.ts';

const ENV = { INTERNAL_GATEWAY_IPV4: '10.16.0.1', EXTERNAL_GATEWAY_IPV4: '172.17.0.1' };

const errors = (env: Record<string, string>) => {
  const result = policyFromEnv(env);
  return result === undefined || result.ok ? [] : result.errors.map(formatError);
};

t.test('without an internal gateway there is no policy in it', async (t) => {
  t.equal(policyFromEnv({}), undefined);
  t.equal(
    policyFromEnv({ PATH: '/bin', INTERNAL_GATEWAY_IPV4: '', BFD_PEER_IPS: '10.255.255.255' }),
    undefined,
  );
});

t.test('the least that there can be', async (t) => {
  t.strictSame(policyFromEnv(ENV), {
    ok: true,
    policy: {
      name: 'environment',
      origin: { file: 'environment', kind: 'Environment', name: 'environment' },
      internal: { gateways: ['10.16.0.1'] },
      external: { gateways: ['172.17.0.1'] },
      bfd: {
        enabled: false,
        peers: [],
        minTX: 1000,
        minRX: 1000,
        multiplier: 3,
        mode: 'passive',
        minTTL: 254,
        adoptDiscriminator: true,
        anySource: false,
      },
      rules: [],
      warnings: [],
    },
  });
});

t.test(
  'BGP mode: nothing is translated, an external gateway may be missing, and the policy says so',
  async (t) => {
    const result = policyFromEnv({
      ...ENV,
      EXTERNAL_GATEWAY_IPV4: '',
      BFD_PEER_IPS: '10.255.255.255',
      ENABLE_BGP: 'true',
    });
    t.match(result, {
      ok: true,
      policy: { forwardOnly: true, defaultAction: 'forward', bfd: { enabled: true } },
    });
    t.match(result?.ok && result.policy.warnings, [
      {
        message:
          /^BGP mode \(ENABLE_BGP\): nothing is translated, not even for policies with snat: true.* policy with spec\.bgp/,
      },
    ]);
    for (const off of ['', 'false']) {
      t.match(policyFromEnv({ ...ENV, ENABLE_BGP: off }), { ok: true, policy: { forwardOnly: undefined } });
    }
  },
);

t.test('EVPN mode is BGP mode with a tunnel, and needs its VNI', async (t) => {
  const env = { ...ENV, ENABLE_BGP: 'true', ENABLE_EVPN: 'true' };
  const result = policyFromEnv({ ...env, VNI: '1016' });
  t.match(result, { ok: true, policy: { forwardOnly: true, evpn: { vni: 1016, routeTargets: [] } } });
  t.match(result?.ok && result.policy.warnings, [
    { message: /^EVPN mode \(ENABLE_EVPN\): nothing is translated/ },
  ]);
  t.match(policyFromEnv({ ...env, ENABLE_EVPN: '', VNI: '1016' }), { ok: true, policy: { evpn: undefined } });
  const errorsOf = (more: Record<string, string>) => {
    const wrong = policyFromEnv({ ...env, ...more });
    return wrong?.ok === false ? wrong.errors.map(({ path, message }) => `${path}: ${message}`) : [];
  };
  t.same(errorsOf({}), ['VNI: is required with ENABLE_EVPN']);
  t.same(errorsOf({ VNI: '0' }), ['VNI: must be a whole number between 1 and 16777215, is "0"']);
  t.same(errorsOf({ VNI: '1', ENABLE_BGP: '' }), ['ENABLE_EVPN: needs ENABLE_BGP=true, as with Kube-OVN']);
});

t.test('everything that there can be', async (t) => {
  t.match(
    policyFromEnv({
      ...ENV,
      INTERNAL_GATEWAY_IPV6: 'fd00:10:16::1',
      EXTERNAL_GATEWAY_IPV6: 'fd00:172:17::1',
      NO_SNAT_SOURCES_IPV4: '10.18.0.0/16,10.19.0.0/16',
      NO_SNAT_SOURCES_IPV6: 'fd00:10:18::/64',
      BFD_PEER_IPS: '10.255.255.255, fdff::1',
      BFD_MIN_TX: '100',
      BFD_MIN_RX: '200',
      BFD_MULTI: '5',
    }),
    {
      ok: true,
      policy: {
        internal: { gateways: ['10.16.0.1', 'fd00:10:16::1'] },
        external: { gateways: ['172.17.0.1', 'fd00:172:17::1'] },
        bfd: { enabled: true, peers: ['10.255.255.255', 'fdff::1'], minTX: 100, minRX: 200, multiplier: 5 },
        rules: [
          {
            name: 'no-snat-sources',
            snat: false,
            ipBlocks: ['10.18.0.0/16', '10.19.0.0/16', 'fd00:10:18::/64'],
          },
        ],
        warnings: [],
      },
    },
  );
});

t.test('a family whose external gateway is empty is left out', async (t) => {
  const result = policyFromEnv({ ...ENV, INTERNAL_GATEWAY_IPV6: 'fd00:10:16::1', EXTERNAL_GATEWAY_IPV6: '' });
  t.match(result, {
    ok: true,
    policy: { warnings: [{ message: 'IPv6 is not programmed: the external side has no IPv6 gateway' }] },
  });
  t.same(errors({ INTERNAL_GATEWAY_IPV4: '10.16.0.1', EXTERNAL_GATEWAY_IPV4: '' }), [
    'environment: EXTERNAL_GATEWAY_IPV4: no address family has a gateway on both sides, internal and external',
  ]);
});

t.test('every variable that is wrong is named at once', async (t) => {
  t.same(
    errors({
      INTERNAL_GATEWAY_IPV4: '10.16.0.999',
      INTERNAL_GATEWAY_IPV6: '10.16.0.1',
      EXTERNAL_GATEWAY_IPV4: '0.0.0.0',
      NO_SNAT_SOURCES_IPV4: '10.18.0.0/16,10.19.0.0/33,fd00::/64',
      BFD_PEER_IPS: '10.0.0.1\n-A INPUT -j DROP',
      BFD_MIN_TX: '0',
      BFD_MIN_RX: '1e3',
      BFD_MULTI: '256',
    }),
    [
      'environment: INTERNAL_GATEWAY_IPV4: "10.16.0.999" is not an address',
      'environment: INTERNAL_GATEWAY_IPV6: must be IPv6, is "10.16.0.1"',
      'environment: EXTERNAL_GATEWAY_IPV4: "0.0.0.0" is not the address of a host',
      'environment: NO_SNAT_SOURCES_IPV4: "10.19.0.0/33" is not an address or CIDR: the length of an IPv4 CIDR is 0 to 32',
      'environment: NO_SNAT_SOURCES_IPV4: must be IPv4, is "fd00::/64"',
      'environment: BFD_PEER_IPS: "10.0.0.1\\n-A INPUT -j DROP" is not an address',
      'environment: BFD_MIN_TX: must be a whole number between 1 and 3600000, is "0"',
      'environment: BFD_MIN_RX: must be a whole number between 1 and 3600000, is "1e3"',
      'environment: BFD_MULTI: must be a whole number between 1 and 255, is "256"',
    ],
  );
});

t.test('IPv4 written as IPv6 is refused', async (t) => {
  const hint = 'it is IPv4-mapped and would match nothing, write';
  t.same(
    errors({
      ...{ ...ENV, BFD_PEER_IPS: '::ffff:10.255.255.255' },
      ...{ NO_SNAT_SOURCES_IPV6: '::ffff:10.18.0.0/112' },
    }),
    [
      `environment: NO_SNAT_SOURCES_IPV6: "::ffff:10.18.0.0/112" is not an address or CIDR: ${hint} 10.18.0.0/16`,
      `environment: BFD_PEER_IPS: "::ffff:10.255.255.255" is not an address: ${hint} 10.255.255.255`,
    ],
  );
});

t.test('one gateway a family', async (t) => {
  t.same(errors({ ...ENV, INTERNAL_GATEWAY_IPV4: '10.16.0.1,10.16.0.2' }), [
    'environment: INTERNAL_GATEWAY_IPV4: must be one address, is "10.16.0.1,10.16.0.2"',
  ]);
});
