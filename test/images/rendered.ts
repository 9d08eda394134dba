/** The pod of a rendered Deployment, as a kubelet makes it: volumes as directories, containers with their rights and limits. */
import { chmodSync, chownSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import { parseAllDocuments } from 'yaml';
import { PolicyDirectory } from '../support/agent.ts';
import type { Namespace, Scope } from '../support/netns.ts';
import { Container } from './container.ts';
import { NETWORK_STATUS } from './pod.ts';

// biome-ignore lint/suspicious/noExplicitAny: parsed YAML
type Resource = any;

export class RenderedPod {
  /** The policy directory. */
  readonly policy: PolicyDirectory;
  readonly #t: Test;
  readonly #scope: Scope;
  readonly #ns: Namespace;
  readonly #resources: Resource[];
  readonly #spec: Resource;
  /** Host path by name. */
  readonly #volumes: Record<string, string>;
  readonly #images: Record<string, string>;

  /** `images`: that of this machine by the name of a container; the gateway's for others. */
  constructor(t: Test, scope: Scope, ns: Namespace, manifests: string, images: Record<string, string> = {}) {
    this.#t = t;
    this.#scope = scope;
    this.#ns = ns;
    this.#images = images;
    this.#resources = parseAllDocuments(manifests).map((document) => document.toJS() as Resource);
    this.#spec = this.#resources.find(({ kind }) => kind === 'Deployment').spec.template.spec;
    this.policy = new PolicyDirectory(scope);
    const base = scope.directory('volumes');
    chmodSync(base, 0o755);
    this.#volumes = Object.fromEntries(
      this.#spec.volumes.map((volume: Resource) => [volume.name, this.#make(volume, base)]),
    );
  }

  /** Makes a volume; its host path. */
  #make(volume: Resource, base: string): string {
    const { name, secret, emptyDir } = volume;
    const directory = name === 'policy' ? this.policy.dir : join(base, name);
    if (name === 'policy') this.policy.write(this.#files(volume));
    else {
      mkdirSync(directory);
      for (const [file, text] of Object.entries(this.#files(volume))) {
        const path = join(directory, file);
        writeFileSync(path, text);
        if (!secret) continue;
        // With an fsGroup the group may read what the owner may.
        chmodSync(path, secret.defaultMode | ((secret.defaultMode & 0o400) >> 3));
        chownSync(path, 0, this.#spec.securityContext.fsGroup);
      }
    }
    chmodSync(directory, emptyDir ? 0o777 : 0o755);
    return directory;
  }

  /** What is in a volume at first, by file. */
  #files({ configMap, secret, downwardAPI }: Resource): Record<string, string> {
    const find = (kind: string, name: string): Resource =>
      this.#resources.find((resource) => resource.kind === kind && resource.metadata.name === name);
    if (configMap) return find('ConfigMap', configMap.name).data;
    if (secret) return find('Secret', secret.secretName).stringData;
    return downwardAPI ? { 'network-status': NETWORK_STATUS } : {};
  }

  /** A container as it is written in the Deployment. */
  container(name: string): Resource {
    return [...this.#spec.initContainers, ...this.#spec.containers].find((one) => one.name === name);
  }

  start(name: string): Container {
    const { command, securityContext, resources, volumeMounts } = this.container(name);
    const memory = resources?.limits?.memory;
    const cpu = resources?.limits?.cpu;
    const container = Container.start(this.#scope, this.#ns, {
      command,
      ...(this.#images[name] === undefined ? {} : { image: this.#images[name] }),
      volumes: Object.fromEntries(
        volumeMounts.map((mount: Resource) => [
          mount.mountPath + (mount.readOnly ? ':ro' : ''),
          this.#volumes[mount.name],
        ]),
      ),
      security: securityContext.privileged
        ? 'privileged'
        : { capabilities: securityContext.capabilities.add },
      readOnly: securityContext.readOnlyRootFilesystem === true,
      ...(memory && { memory: Number.parseInt(memory, 10) }),
      ...(cpu && { cpu: Number.parseInt(cpu, 10) }),
    });
    this.#t.teardown(() => {
      if (!this.#t.passing()) this.#t.comment(container.log().slice(-5000));
      container.remove();
    });
    return container;
  }
}
